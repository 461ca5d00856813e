#include "picture.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "jpeg.hpp"
#include "orientation.hpp"

#define STB_IMAGE_IMPLEMENTATION
#ifndef MSCSA_LIBJPEG
#define STBI_ONLY_JPEG
#endif
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

namespace {

constexpr int fixed_bits = 22;
constexpr std::int64_t most_pixels = 80'000'000, longest_side = 65'535;

struct Taps {
    std::vector<int> first;
    std::vector<std::vector<std::int32_t>> weights;
};

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

/// The cubic of Keys with a = -0.5.
double cubic(double x) {
    x = std::abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

Taps taps_of(int source, int target, bool bicubic) {
    const double scale = static_cast<double>(source) / target;
    const double stretch = std::max(scale, 1.0);
    const double reach = (bicubic ? 2 : 1) * stretch;
    Taps taps;
    for (int to = 0; to < target; ++to) {
        const double center = (to + 0.5) * scale;
        const int from = std::max(0, static_cast<int>(center - reach + 0.5));
        const int end = std::min(source, static_cast<int>(center + reach + 0.5));
        std::vector<double> raw;
        double total = 0;
        for (int x = from; x < end; ++x) {
            const double place = (x - center + 0.5) / stretch;
            total += raw.emplace_back(bicubic ? cubic(place) : triangle(place));
        }
        auto& weights = taps.weights.emplace_back();
        for (const double value : raw) {
            const double fixed = value / total * (1 << fixed_bits);
            weights.push_back(static_cast<std::int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
        }
        taps.first.push_back(from);
    }
    return taps;
}

/// Filters `count` lines of `length` source pixels each; steps are distances in bytes.
void filter(const std::vector<std::uint8_t>& from, std::vector<std::uint8_t>& to, const Taps& taps, int count,
            std::size_t from_line, std::size_t to_line, std::size_t from_step, std::size_t to_step) {
    for (std::size_t at = 0; at < taps.first.size(); ++at) {
        const auto& weights = taps.weights[at];
        for (int line = 0; line < count; ++line) {
            for (int channel = 0; channel < 3; ++channel) {
                const auto* value = &from[line * from_line + taps.first[at] * from_step + channel];
                std::int32_t sum = 1 << (fixed_bits - 1);
                for (std::size_t k = 0; k < weights.size(); ++k) sum += value[k * from_step] * weights[k];
                const int rounded = std::clamp(sum >> fixed_bits, 0, 255);
                to[line * to_line + at * to_step + channel] = static_cast<std::uint8_t>(rounded);
            }
        }
    }
}

Picture upright(const Picture& picture, int turn) {
    if (turn == 1) return picture;
    const bool swapped = turn >= 5;
    Picture result{swapped ? picture.height : picture.width, swapped ? picture.width : picture.height, {}};
    result.data.resize(picture.data.size());
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            int u = swapped ? y : x, v = swapped ? x : y;
            if (turn == 2 || turn == 3 || turn == 7 || turn == 8) u = picture.width - 1 - u;
            if (turn == 3 || turn == 4 || turn == 6 || turn == 7) v = picture.height - 1 - v;
            const auto* from = &picture.data[3 * (static_cast<std::size_t>(v) * picture.width + u)];
            std::copy(from, from + 3, &result.data[3 * (static_cast<std::size_t>(y) * result.width + x)]);
        }
    }
    return result;
}

/// Python's round().
int round_half_even(double value) { return static_cast<int>(std::nearbyint(value)); }

}  // namespace

void check_size(std::int64_t width, std::int64_t height, const std::string& name) {
    const auto size = "'" + name + "' has " + std::to_string(width) + "x" + std::to_string(height) +
                      " pixels, expected at most ";
    if (std::max(width, height) > longest_side)
        throw UserError(size + std::to_string(longest_side) + " on a side; crop or shrink it first");
    if (width * height > most_pixels)
        throw UserError(size + std::to_string(most_pixels / 1'000'000) + " million; shrink it first");
}

bool is_jpeg(const std::string& content) { return content.compare(0, 3, "\xff\xd8\xff") == 0; }

Picture decode(const std::string& content, const std::string& name) {
    if (auto picture = decode_jpeg(content, name)) return upright(*picture, orientation(content));
    const auto* bytes = reinterpret_cast<const stbi_uc*>(content.data());
    const int length = static_cast<int>(content.size());
    int width = 0, height = 0, channels = 0;
    if (!stbi_info_from_memory(bytes, length, &width, &height, &channels))
        throw UserError("'" + name + "' is not a readable picture; use a whole JPEG, PNG or BMP file");
    check_size(width, height, name);
    const std::unique_ptr<stbi_uc, void (*)(void*)> rgba(
        stbi_load_from_memory(bytes, length, &width, &height, &channels, 4), stbi_image_free);
    if (!rgba) {
        const char* reason = stbi_failure_reason();
        throw UserError("'" + name + "' is not a readable picture: " + (reason == nullptr ? "damaged" : reason));
    }
    Picture picture{width, height, {}};
    picture.data.reserve(static_cast<std::size_t>(width) * height * 3);
    for (std::size_t pixel = 0; pixel < static_cast<std::size_t>(width) * height; ++pixel) {
        const auto* value = rgba.get() + 4 * pixel;
        for (int channel = 0; channel < 3; ++channel)
            picture.data.push_back(
                static_cast<std::uint8_t>((value[channel] * value[3] + 255 * (255 - value[3]) + 127) / 255));
    }
    return upright(picture, orientation(content));
}

Picture resize(const Picture& picture, int width, int height, bool bicubic) {
    const std::int64_t rows = std::max(picture.height, height);
    if (rows * width > most_pixels)
        throw UserError("the picture has " + std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                        " pixels: too long and narrow; crop it first");
    Picture result = picture;
    if (width != result.width) {
        Picture wide{width, result.height, std::vector<std::uint8_t>(std::size_t{3} * width * result.height)};
        filter(result.data, wide.data, taps_of(result.width, width, bicubic), result.height,
               std::size_t{3} * result.width, std::size_t{3} * width, 3, 3);
        result = std::move(wide);
    }
    if (height != result.height) {
        Picture tall{width, height, std::vector<std::uint8_t>(std::size_t{3} * width * height)};
        const std::size_t row = std::size_t{3} * width;
        filter(result.data, tall.data, taps_of(result.height, height, bicubic), width, 3, 3, row, row);
        result = std::move(tall);
    }
    return result;
}

std::vector<float> to_input(const Picture& picture, const Preprocess& spec) {
    int width = spec.width, height = spec.height;
    if (spec.crop) {
        const double scale = static_cast<double>(spec.short_side) / std::min(picture.width, picture.height);
        width = std::max(round_half_even(picture.width * scale), spec.width);
        height = std::max(round_half_even(picture.height * scale), spec.height);
    }
    const Picture fitted = resize(picture, width, height, spec.bicubic);
    const int left = (width - spec.width) / 2, top = (height - spec.height) / 2;
    std::vector<float> input;
    input.reserve(std::size_t{3} * spec.width * spec.height);
    for (int channel = 0; channel < 3; ++channel) {
        std::array<float, 256> table{};
        for (int value = 0; value < 256; ++value)
            table[value] = static_cast<float>((value / 255.0 - spec.mean[channel]) / spec.std[channel]);
        for (int y = 0; y < spec.height; ++y)
            for (int x = 0; x < spec.width; ++x)
                input.push_back(table[fitted.data[3 * (std::size_t(y + top) * width + x + left) + channel]]);
    }
    return input;
}

void write_png(const std::string& path, const Picture& picture) {
    if (!stbi_write_png(path.c_str(), picture.width, picture.height, 3, picture.data.data(), 3 * picture.width))
        throw UserError("cannot write '" + path + "'");
}
