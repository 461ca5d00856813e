// From a picture file to the network's input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.hpp"

/// 8-bit RGB rows.
struct Picture {
    int width{}, height{};
    std::vector<std::uint8_t> data;
};

/// Throws `UserError` for a picture that is too large to decode; only its header has been read.
void check_size(std::int64_t width, std::int64_t height, const std::string& name);

/// Whether a file's content begins as a JPEG does.
bool is_jpeg(const std::string& content);

/// A JPEG, PNG or BMP file, upright, over white where it is transparent. `name` is for messages.
Picture decode(const std::string& content, const std::string& name);

/// An antialiased resize on 8-bit values: along rows, rounded, then along columns, rounded; the filter is widened by
/// the reduction and its weights are 22-bit fixed-point numbers. Pillow computes the same to the last bit, except
/// that from version 13 on it may take columns first; the Python package asks it for rows first.
Picture resize(const Picture& picture, int width, int height, bool bicubic);

/// 3 x height x width floats, one channel after the other.
std::vector<float> to_input(const Picture& picture, const Preprocess& spec);

/// Writes a PNG.
void write_png(const std::string& path, const Picture& picture);
