// The one thing that differs between the programs: who computes the network.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "answer.hpp"
#include "bundle.hpp"
#include "choice.hpp"

struct Network {
    virtual ~Network() = default;
    /// The output named in the artefact's `postprocess`, for an input of the artefact's shape.
    virtual Output run(std::vector<float>& input) = 0;
};

/// Name of the runtime in manifests.
extern const char* const runtime_name;

/// Formats that the runtime loads, as manifests call them.
extern const std::vector<std::string> loadable_kinds;

/// What the runtime computes in on this processor, as manifests call it.
std::vector<std::string> executable_precisions();

/// `library` is the path of the runtime's shared library; empty to search the usual places.
std::unique_ptr<Network> open_network(const Bundle& bundle, const Choice& choice, int threads,
                                      const std::string& library);
