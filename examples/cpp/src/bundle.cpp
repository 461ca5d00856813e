#include "bundle.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "sha256.hpp"

using nlohmann::json;

namespace {

constexpr std::uint64_t version = 1;
constexpr std::uint64_t longest_side = 65536;

/// A whole number from 1 on; a plain conversion would cut 1.9 and wrap 4294967297 to 1.
std::uint64_t whole(const json& from, const char* name) {
    const auto& value = from.at(name);
    if (!value.is_number_unsigned() || value == 0)
        throw UserError(std::string("the manifest's ") + name + " is " + value.dump() + ", no whole number from 1 on");
    return value;
}

int side(const json& from, const char* name) {
    const auto length = whole(from, name);
    if (length > longest_side)
        throw UserError(std::string("the manifest's ") + name + " is " + std::to_string(length) + ", at most " +
                        std::to_string(longest_side) + " can be");
    return static_cast<int>(length);
}

/// The value of `name`, which is `yes` (true) or `no`.
bool either(const json& from, const char* name, const char* yes, const char* no) {
    const auto& value = from.at(name);
    if (value != yes && value != no)
        throw UserError(std::string("the manifest's ") + name + " is " + value.dump() + "; this program knows " + yes +
                        " and " + no);
    return value == yes;
}

Preprocess preprocess_of(const json& from) {
    Preprocess spec;
    spec.height = side(from, "height");
    spec.width = side(from, "width");
    spec.crop = either(from, "resize", "short_side_crop", "stretch");
    spec.short_side = spec.crop ? side(from, "short_side") : 0;
    spec.bicubic = either(from, "interpolation", "bicubic", "bilinear");
    spec.mean = from.at("mean");
    spec.std = from.at("std");
    const bool three = from.at("mean").size() == spec.mean.size() && from.at("std").size() == spec.std.size();
    if (!three || *std::min_element(spec.std.begin(), spec.std.end()) <= 0)
        throw UserError("the manifest's mean and std have to be three numbers each, std above 0");
    return spec;
}

/// Whether the network was fastest on OpenVINO with bfloat16 for what is not integer.
bool rest_in_bf16(const json& artifact) {
    bool bf16 = false;
    double least = std::numeric_limits<double>::infinity();
    for (const auto& entry : artifact.at("measurements")) {
        if (entry.at("runtime") != "openvino" || entry.at("status") != "ok") continue;
        if (entry.at("precision") != artifact.at("precision")) continue;
        if (entry.at("boundary") != "core" && artifact.at("postprocess").at("output") != "classmap") continue;
        if (const auto& latency = entry.at("latency_ms"); !latency.is_null() && latency.at("p50") < least) {
            least = latency.at("p50");
            bf16 = entry.at("options").value("float_precision", "") == "bf16";
        }
    }
    return bf16;
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
    artifact.bf16 = rest_in_bf16(from);
    artifact.postprocess = {post.at("tensor"), post.at("upsample"), post.at("decide"), post.at("restore")};
    return artifact;
}

/// Free axes (-1) get the size of one picture.
void fill_free_axes(std::vector<std::int64_t>& shape, const Preprocess& spec) {
    const std::array<std::int64_t, 4> fed{1, 3, spec.height, spec.width};
    for (std::size_t axis = 0; axis < std::min(shape.size(), fed.size()); ++axis)
        if (shape[axis] == -1) shape[axis] = fed[axis];
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
    for (const auto& entry : from.at("artifacts")) {
        bundle.artifacts.push_back(artifact_of(entry));
        fill_free_axes(bundle.artifacts.back().input_shape, bundle.preprocess);
    }
    for (const auto& entry : from.at("files"))
        bundle.files[entry.at("path")] = {entry.at("sha256"), entry.at("size_bytes")};
    if (!from.at("golden").is_null()) bundle.golden = golden_of(from.at("golden"));
    if (const auto& choice = from.at("recommended"); !choice.is_null()) {
        bundle.recommended_artifact = choice.at("artifact");
        bundle.recommended_runtime = choice.at("runtime");
        if (bundle.recommended_runtime == "openvino" && choice.at("precision") == "bf16")
            for (auto& entry : bundle.artifacts) entry.bf16 = entry.bf16 || entry.path == bundle.recommended_artifact;
    }
    return bundle;
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
        if (const auto found = whole(manifest, "schema_version"); found > version)
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
    check_input(*best, preprocess);
    return *best;
}
