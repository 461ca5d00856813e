#include "bundle.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "sha256.hpp"

using nlohmann::json;

namespace {

constexpr int version = 1;

Preprocess preprocess_of(const json& from) {
    Preprocess spec;
    spec.height = from.at("height");
    spec.width = from.at("width");
    spec.crop = from.at("resize") == "short_side_crop";
    spec.short_side = spec.crop ? from.at("short_side").get<int>() : 0;
    spec.bicubic = from.at("interpolation") == "bicubic";
    spec.mean = from.at("mean");
    spec.std = from.at("std");
    return spec;
}

/// Whether every measurement on OpenVINO let bfloat16 compute what is not integer.
bool rest_in_bf16(const json& measurements) {
    bool any = false;
    for (const auto& entry : measurements) {
        if (entry.at("runtime") != "openvino" || entry.at("status") != "ok") continue;
        if (entry.at("options").value("float_precision", "") != "bf16") return false;
        any = true;
    }
    return any;
}

Artifact artifact_of(const json& from) {
    const auto& post = from.at("postprocess");
    const auto& input = from.at("inputs").at(0);
    Artifact artifact;
    artifact.path = from.at("path");
    artifact.kind = from.at("kind");
    artifact.precision = from.at("precision");
    artifact.input = input.at("name");
    artifact.dtype = input.at("dtype");
    artifact.input_shape = input.at("shape").get<std::vector<std::int64_t>>();
    artifact.files = from.at("files").get<std::vector<std::string>>();
    artifact.runtimes = from.at("runtimes").get<std::vector<std::string>>();
    artifact.requirements = from.at("requires").get<std::vector<std::string>>();
    artifact.output = post.at("output");
    artifact.bf16 = rest_in_bf16(from.at("measurements"));
    artifact.postprocess = {post.at("tensor"), post.at("upsample"), post.at("decide"), post.at("restore")};
    return artifact;
}

Golden golden_of(const json& from) {
    Golden golden{from.at("picture"), from.at("input"), from.at("output"), from.at("answer"), {}};
    for (const auto& [precision, limits] : from.at("tolerance").items()) {
        const auto& most = limits.at("max_abs_over_range");
        golden.tolerance[precision] = {most.is_null() ? std::nullopt : std::optional<double>(most),
                                       limits.at("argmax_agreement")};
    }
    return golden;
}

Bundle bundle_of(const json& from) {
    Bundle bundle;
    bundle.model = from.at("model").at("name");
    bundle.task = from.at("task");
    bundle.labels = from.at("labels").get<std::vector<std::string>>();
    bundle.palette = from.at("palette").get<std::vector<std::array<std::uint8_t, 3>>>();
    bundle.preprocess = preprocess_of(from.at("preprocess"));
    for (const auto& entry : from.at("artifacts")) bundle.artifacts.push_back(artifact_of(entry));
    for (const auto& entry : from.at("files"))
        bundle.files[entry.at("path")] = {entry.at("sha256"), entry.at("size_bytes")};
    if (!from.at("golden").is_null()) bundle.golden = golden_of(from.at("golden"));
    if (const auto& choice = from.at("recommended"); !choice.is_null()) {
        bundle.recommended_artifact = choice.at("artifact");
        bundle.recommended_runtime = choice.at("runtime");
        if (choice.at("precision") == "bf16")
            for (auto& entry : bundle.artifacts) entry.bf16 = entry.bf16 || entry.path == bundle.recommended_artifact;
    }
    return bundle;
}

bool holds(const std::vector<std::string>& all, const std::string& one) {
    return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream || std::filesystem::is_directory(path)) throw UserError("cannot read '" + path.string() + "'");
    std::ostringstream content;
    content << stream.rdbuf();
    return content.str();
}

Bundle read_bundle(const std::filesystem::path& root) {
    const auto path = root / "manifest.json";
    if (!std::filesystem::is_regular_file(path))
        throw UserError("'" + root.string() + "' is no bundle directory: it has no manifest.json");
    try {
        const auto manifest = json::parse(read_file(path));
        const int found = manifest.at("schema_version");
        if (found > version)
            throw UserError("'" + path.string() + "' has schema version " + std::to_string(found) +
                            ", this program reads up to " + std::to_string(version));
        auto bundle = bundle_of(manifest);
        bundle.root = root;
        return bundle;
    } catch (const json::exception& error) {
        throw UserError("'" + path.string() + "' is not the manifest of a bundle: " + error.what());
    }
}

std::string Bundle::read(const std::string& path) const {
    const auto listed = files.find(path);
    if (listed == files.end()) throw UserError("the manifest does not list '" + path + "'");
    auto content = read_file(root / path);
    if (content.size() != listed->second.size_bytes || sha256(content) != listed->second.sha256)
        throw UserError("'" + path + "' is not the file its manifest describes (sha256 differs); fetch the bundle again");
    return content;
}

const Artifact& Bundle::choose(const std::string& runtime, const std::vector<std::string>& kinds,
                               const std::string& path) const {
    const std::vector<std::string> order{"fp32", "fp16", "int8"};
    const Artifact* best = nullptr;
    auto best_rank = std::make_tuple(true, true, order.end());
    std::string held;
    for (const auto& entry : artifacts) {
        held += (held.empty() ? "" : "; ") + entry.path + " (" + entry.precision + ", " + entry.kind + ")";
        if (!holds(kinds, entry.kind) || entry.dtype != "float32") continue;
        if (path.empty() ? !holds(entry.runtimes, runtime) : entry.path != path) continue;
        const bool other = recommended_runtime != runtime || recommended_artifact != entry.path;
        // This program upsamples and decides by itself, faster than a graph that ends in a class map.
        const auto rank = std::make_tuple(other, entry.output == "classmap",
                                          std::find(order.begin(), order.end(), entry.precision));
        if (best == nullptr || rank < best_rank) std::tie(best, best_rank) = std::make_tuple(&entry, rank);
    }
    if (best == nullptr)
        throw UserError((path.empty() ? "the bundle holds nothing for " + runtime : "'" + path + "' cannot run here") +
                        "; it holds: " + held);
    return *best;
}
