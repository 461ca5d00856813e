#include "choice.hpp"

#include <algorithm>
#include <optional>
#include <tuple>

#include "processor.hpp"

namespace {

bool holds(const std::vector<std::string>& all, const std::string& one) {
    return std::find(all.begin(), all.end(), one) != all.end();
}

/// One way to run an artefact; `measured` is null where nobody measured it.
struct Way {
    const Artifact* artifact;
    const Measured* measured;
    std::string precision, rest;
};

/// Every way to run the bundle on the processor, those that this one cannot execute among them.
std::vector<Way> ways_of(const Bundle& bundle, const std::string& runtime) {
    std::vector<Way> ways;
    for (const auto& artifact : bundle.artifacts) {
        bool tried = false;
        for (const auto& measured : artifact.measured) {
            if (measured.runtime != runtime) continue;
            tried = tried || measured.precision == artifact.precision;
            if (measured.device == "cpu") ways.push_back({&artifact, &measured, measured.precision, measured.rest});
        }
        if (!tried && holds(artifact.runtimes, runtime))
            ways.push_back({&artifact, nullptr, artifact.precision, "fp32"});
    }
    return ways;
}

bool runs(const Way& way, const Ability& ability) {
    return holds(ability.kinds, way.artifact->kind) && way.artifact->dtype == "float32" &&
           holds(ability.precisions, way.precision) && holds(ability.precisions, way.rest);
}

/// The same network as a class map's, computed the same way, without its upsampling and argmax.
const Way* twin_of(const Way& way, const std::vector<Way>& ways) {
    const auto& mine = *way.artifact;
    if (mine.output != "classmap") return nullptr;
    const auto common = [&](const std::string& runtime) { return holds(mine.runtimes, runtime); };
    const Artifact* network = nullptr;
    for (const auto& other : ways) {
        const auto& its = *other.artifact;
        if (its.output != "logits" || its.precision != mine.precision || its.recipe != mine.recipe) continue;
        if (std::none_of(its.runtimes.begin(), its.runtimes.end(), common)) continue;
        if (network == nullptr || (its.profile == mine.profile && network->profile != mine.profile)) network = &its;
    }
    const auto alike = std::find_if(ways.begin(), ways.end(), [&](const Way& other) {
        return other.artifact == network && other.precision == way.precision && other.rest == way.rest;
    });
    return alike == ways.end() ? nullptr : &*alike;
}

/// Less is better.
using Rank = std::tuple<bool, bool, bool, bool, double, std::ptrdiff_t, bool, std::ptrdiff_t, bool>;

Rank rank_of(const Way& way, const std::vector<Way>& ways, const Bundle& bundle, const std::string& runtime) {
    static const std::vector<std::string> most_exact{"fp32", "fp16", "bf16", "int8"};
    const auto* twin = twin_of(way, ways);
    // A form that decides by itself is as good as the network in it.
    const auto& best = twin == nullptr ? way : *twin;
    const auto& its = best.artifact->runtimes;
    const auto suits = std::find(its.begin(), its.end(), runtime) - its.begin();
    const auto exactness = std::find(most_exact.begin(), most_exact.end(), best.precision) - most_exact.begin();
    const bool lacks = !lacking(way.artifact->requirements).empty();
    if (bundle.architecture.empty() || bundle.architecture == architecture()) {
        const auto& choice = bundle.recommended;
        const bool other = choice.artifact != best.artifact->path || choice.runtime != runtime ||
                           choice.precision != best.precision;
        const bool lossy = best.measured != nullptr && best.measured->lossy;
        const auto latency = best.measured == nullptr ? std::nullopt : best.measured->p50_ms;
        return {lacks, other, lossy, !latency, latency.value_or(0), exactness, false, suits, twin != nullptr};
    }
    return {lacks, false, false, false, 0, exactness, best.rest != "fp32", suits, twin != nullptr};
}

std::string list(const std::vector<std::string>& words) {
    std::string all;
    for (const auto& word : words) all += (all.empty() ? "" : ", ") + word;
    return all;
}

/// Why nothing can be taken.
UserError nothing(const Bundle& bundle, const Ability& ability, const std::string& path) {
    std::string held;
    const Artifact* asked = nullptr;
    for (const auto& entry : bundle.artifacts) {
        held += (held.empty() ? "" : "; ") + entry.path + " (" + entry.precision + ", " + entry.kind + ")";
        if (entry.path == path) asked = &entry;
    }
    if (asked != nullptr && asked->dtype != "float32")
        return UserError("'" + path + "' takes " + asked->dtype +
                         " values, this program gives float32; the bundle holds: " + held);
    if (asked != nullptr)
        return UserError("'" + path + "' is of kind " + asked->kind + ", which " + ability.runtime +
                         " cannot load; the bundle holds: " + held);
    if (path.empty()) return UserError("the bundle holds nothing for " + ability.runtime + "; it holds: " + held);
    return UserError("the bundle has no '" + path + "'; it holds: " + held);
}

/// The runtimes read as many values as the shape says, and the preprocessing makes as many as its size says.
void check_input(const Artifact& artifact, const Preprocess& spec) {
    if (artifact.input_shape == std::vector<std::int64_t>{1, 3, spec.height, spec.width}) return;
    std::string shape;
    for (const auto axis : artifact.input_shape) shape += (shape.empty() ? "" : "x") + std::to_string(axis);
    throw UserError("the manifest contradicts itself: '" + artifact.path + "' takes an input of " +
                    (shape.empty() ? "no size" : shape) + ", the preprocessing makes 1x3x" +
                    std::to_string(spec.height) + "x" + std::to_string(spec.width));
}

}  // namespace

Choice choose(const Bundle& bundle, const Ability& ability, const std::string& path) {
    const auto ways = ways_of(bundle, ability.runtime);
    const Way* best = nullptr;
    std::optional<Rank> least;
    for (const auto& way : ways) {
        if (!runs(way, ability) || (!path.empty() && way.artifact->path != path)) continue;
        const auto rank = rank_of(way, ways, bundle, ability.runtime);
        if (!least || rank < *least) best = &way, least = rank;
    }
    Choice choice;
    if (best != nullptr) choice = {best->artifact, best->precision == "bf16" || best->rest == "bf16"};
    // Whoever names a file may try it on a runtime that it was not made for.
    for (const auto& entry : bundle.artifacts) {
        const bool loads = entry.dtype == "float32" && holds(ability.kinds, entry.kind);
        if (best == nullptr && entry.path == path && loads) choice = {&entry, false};
    }
    if (choice.artifact == nullptr) throw nothing(bundle, ability, path);
    check_input(*choice.artifact, bundle.preprocess);
    return choice;
}

std::vector<std::string> doubts(const Bundle& bundle, const Artifact& artifact) {
    std::vector<std::string> said;
    if (!bundle.architecture.empty() && bundle.architecture != architecture())
        said.push_back("the bundle was measured and verified on " + bundle.architecture + ", not on " + architecture() +
                       "; check it with --check");
    const auto missing = lacking(artifact.requirements);
    if (!missing.empty())
        said.push_back("'" + artifact.path + "' requires " + list(missing) +
                       ", which this processor lacks: it may be slow or inexact");
    else if (!artifact.requirements.empty() && !lists_extensions())
        said.push_back("'" + artifact.path + "' requires " + list(artifact.requirements) +
                       "; this system does not tell whether the processor has it: without, it may be slow or inexact");
    return said;
}
