// From the network's output to the answer.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

/// What a network answered: values and their shape, batch first. Class numbers are values too; float32 holds each.
struct Output {
    std::vector<std::int64_t> shape;
    std::vector<float> data;
};

/// One class number per pixel.
struct ClassMap {
    int width{}, height{};
    std::vector<std::uint16_t> data;
};

/// The class that wins at each pixel after bilinear upsampling (half-pixel centers, float32) to width x height. Only
/// the classes that can win between four neighboring values are upsampled there. Of equal values the lower class wins.
ClassMap class_map(const Output& output, int width, int height);

/// A class map at another size: each pixel takes the class under its center.
ClassMap restore(const ClassMap& classes, int width, int height);

/// The best classes with their probabilities 0..1, the most probable first.
std::vector<std::pair<int, double>> best_classes(const Output& output, bool softmax, std::size_t count = 5);
