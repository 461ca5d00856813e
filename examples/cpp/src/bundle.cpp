#include "bundle.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

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

/// The value of `name`, which is one of `known`.
std::string one_of(const json& from, const char* name, const std::vector<std::string>& known) {
    const auto& value = from.at(name);
    std::string all;
    for (const auto& each : known) {
        if (value == each) return each;
        all += (all.empty() ? "" : ", ") + each;
    }
    throw UserError(std::string("the manifest's ") + name + " is " + value.dump() + "; this program knows " + all);
}

Preprocess preprocess_of(const json& from) {
    Preprocess spec;
    spec.height = side(from, "height");
    spec.width = side(from, "width");
    spec.crop = one_of(from, "resize", {"short_side_crop", "stretch"}) == "short_side_crop";
    spec.short_side = spec.crop ? side(from, "short_side") : 0;
    spec.bicubic = one_of(from, "interpolation", {"bicubic", "bilinear"}) == "bicubic";
    spec.mean = from.at("mean");
    spec.std = from.at("std");
    const bool three = from.at("mean").size() == spec.mean.size() && from.at("std").size() == spec.std.size();
    if (!three || *std::min_element(spec.std.begin(), spec.std.end()) <= 0)
        throw UserError("the manifest's mean and std have to be three numbers each, std above 0");
    return spec;
}

/// Whether `metric` lost more than an INT8 file usually may: as `mscsa_deploy/calibration/budget.py`.
bool lossy(const json& metric, const std::string& precision) {
    if (precision == "fp32" || metric.is_null() || metric.at("drop").is_null() || metric.at("reference").is_null())
        return false;
    static const std::map<std::string, double> usual{{"mIoU", 0.5}, {"top-1", 0.3}, {"argmax agreement", 1.0}};
    const auto points = usual.find(metric.at("name").get<std::string>());
    const double value = metric.at("value"), reference = metric.at("reference");
    const double most = points == usual.end() ? 0.5 : points->second;
    return !(reference > 0 && reference - value <= most && value >= reference * 0.96);
}

/// What was measured of the network alone, or of a graph that ends in a class map.
std::vector<Measured> measured_of(const json& artifact) {
    const bool whole = artifact.at("postprocess").at("output") == "classmap";
    std::vector<Measured> all;
    for (const auto& entry : artifact.at("measurements")) {
        const auto& status = entry.at("status");
        if ((status != "ok" && status != "built, not run") || (entry.at("boundary") != "core" && !whole)) continue;
        Measured measured{entry.at("runtime"), entry.at("precision"), entry.at("device"), "fp32", {}, false};
        measured.rest = entry.at("options").value("float_precision", "fp32");
        if (const auto& latency = entry.at("latency_ms"); !latency.is_null()) measured.p50_ms = latency.at("p50");
        measured.lossy = lossy(entry.at("metric"), measured.precision);
        all.push_back(measured);
    }
    return all;
}

Postprocess postprocess_of(const json& from) {
    whole(from, "stride");
    return {from.at("tensor"), one_of(from, "upsample", {"bilinear", "none"}),
            one_of(from, "decide", {"argmax", "softmax", "none"}), one_of(from, "restore", {"nearest", "none"})};
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
    artifact.recipe = from.at("recipe");
    artifact.profile = from.at("profile");
    artifact.measured = measured_of(from);
    artifact.postprocess = postprocess_of(post);
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
    if (const auto& choice = from.at("recommended"); !choice.is_null())
        bundle.recommended = {choice.at("artifact"), choice.at("runtime"), choice.at("precision")};
    if (const auto& machine = from.at("environment"); machine.contains("arch") && machine["arch"].is_string())
        bundle.architecture = machine["arch"];
    return bundle;
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
        throw UserError("'" + root.string() + "' is " +
                        (std::filesystem::is_regular_file(root)
                             ? "a file; a packed bundle is taken apart with: mscsa-deploy unpack FILE.zip -o DIRECTORY"
                             : "no bundle directory: it has no manifest.json"));
    try {
        const auto manifest = json::parse(read_file(path));
        if (const auto found = whole(manifest, "schema_version"); found > version)
            throw UserError("'" + path.string() + "' has schema version " + std::to_string(found) +
                            ", this program reads up to " + std::to_string(version) +
                            "; update this program");
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
