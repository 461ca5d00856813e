// Which file of a bundle this machine runs, and how.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"

/// What a program can run.
struct Ability {
    std::string runtime;                  ///< Its name in manifests.
    std::vector<std::string> kinds;       ///< Formats that it loads.
    std::vector<std::string> precisions;  ///< What it computes in on this machine.
};

/// A file, and whether bfloat16 shall compute what is not integer.
struct Choice {
    const Artifact* artifact{};
    bool bf16{};
};

/// What Python's `load(bundle, runtime=..., values=True)` takes, of the files with float32 input: what the manifest
/// recommends for the runtime, then what lost no more accuracy than INT8 usually may and was measured to be the
/// fastest, then FP32; of a network in two forms the one that answers with values. What requires instructions that the
/// processor lacks comes last. On another architecture than the bundle was made on, FP32 first and INT8 last.
/// `path` leaves only the artefact of that path.
Choice choose(const Bundle& bundle, const Ability& ability, const std::string& path);

/// What may make `artifact` slow or inexact on this machine; empty if nothing is known.
std::vector<std::string> doubts(const Bundle& bundle, const Artifact& artifact);
