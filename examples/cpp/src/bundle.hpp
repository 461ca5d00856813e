// What a bundle's manifest says, read and checked.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

/// Something the person at the keyboard can put right; exit code 2.
struct UserError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Preprocess {
    int height{}, width{};
    bool crop{};  ///< Short side to `short_side`, then the center; otherwise stretched.
    int short_side{};
    bool bicubic{};
    std::array<double, 3> mean{}, std{};
};

struct Postprocess {
    std::string tensor, upsample, decide, restore;
};

struct Artifact {
    std::string path, kind, precision, output, input, dtype;
    std::vector<std::string> files;  ///< What lies beside `path` and is loaded with it (OpenVINO's weights).
    std::vector<std::string> runtimes, requirements;
    std::vector<std::int64_t> input_shape;
    Postprocess postprocess;
    bool bf16{};  ///< Fastest, or recommended, with bfloat16 for what is not integer; OpenVINO has to be asked for it.
};

struct Tolerance {
    std::optional<double> max_abs_over_range;
    double argmax_agreement{};
};

struct Golden {
    std::string picture, input, output, answer;
    std::map<std::string, Tolerance> tolerance;
};

struct File {
    std::string sha256;
    std::uintmax_t size_bytes{};
};

struct Bundle {
    std::filesystem::path root;
    std::string model, task, recommended_artifact, recommended_runtime;
    std::vector<std::string> labels;
    std::vector<std::array<std::uint8_t, 3>> palette;
    Preprocess preprocess;
    std::vector<Artifact> artifacts;
    std::map<std::string, File> files;
    std::optional<Golden> golden;

    /// The content of a file of the bundle, its size and SHA-256 checked.
    std::string read(const std::string& path) const;

    /// The artefact at `path`; if that is empty, the recommended one of `runtime`, or else its most precise one.
    /// `kinds` are the formats that the program loads.
    const Artifact& choose(const std::string& runtime, const std::vector<std::string>& kinds,
                           const std::string& path) const;
};

/// The bundle directory `root`.
Bundle read_bundle(const std::filesystem::path& root);

/// A whole file.
std::string read_file(const std::filesystem::path& path);
