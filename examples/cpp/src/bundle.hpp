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

/// What an artefact did on one runtime where the bundle was made.
struct Measured {
    std::string runtime, precision, device;
    std::string rest;  ///< What the float remainder of an INT8 file ran in.
    std::optional<double> p50_ms;
    bool lossy{};  ///< It lost more of the task's metric than INT8 usually may.
};

struct Artifact {
    std::string path, kind, precision, output, input, dtype, recipe, profile;
    std::vector<std::string> files;  ///< What lies beside `path` and is loaded with it (OpenVINO's weights).
    std::vector<std::string> runtimes, requirements;
    std::vector<std::int64_t> input_shape;
    std::vector<Measured> measured;
    Postprocess postprocess;
};

/// What to run on a device like the one that the bundle was made on; empty where nothing passed.
struct Recommended {
    std::string artifact, runtime, precision;
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
    std::string model, task;
    std::string architecture;  ///< Of the processor that it was measured and verified on.
    Recommended recommended;
    std::vector<std::string> labels;
    std::vector<std::array<std::uint8_t, 3>> palette;
    Preprocess preprocess;
    std::vector<Artifact> artifacts;
    std::map<std::string, File> files;
    std::optional<Golden> golden;

    /// The content of a file of the bundle, its size and SHA-256 checked.
    std::string read(const std::string& path) const;
};

/// The bundle directory `root`.
Bundle read_bundle(const std::filesystem::path& root);

/// A whole file.
std::string read_file(const std::filesystem::path& path);
