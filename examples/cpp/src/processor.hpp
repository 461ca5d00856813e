// What the machine can do.
#pragma once

#include <string>
#include <vector>

/// Of the processor, as Linux and manifests name it: "x86_64", "aarch64", ...
std::string architecture();

/// Those of the instruction set extensions `wanted` that this processor lacks; "vnni" is either form of it. Where the
/// system does not list what the processor has, nothing is known to be lacking.
std::vector<std::string> lacking(const std::vector<std::string>& wanted);

/// Whether the system lists the processor's extensions.
bool lists_extensions();
