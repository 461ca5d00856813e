#include "answer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace {

/// For each target pixel its left (upper) neighbor among the source samples and the other one's weight.
struct Places {
    std::vector<int> first;
    std::vector<float> share;
};

Places places_of(int source, int target) {
    Places places;
    for (int to = 0; to < target; ++to) {
        const double place = std::clamp((to + 0.5) * source / target - 0.5, 0.0, source - 1.0);
        places.first.push_back(static_cast<int>(place));
        places.share.push_back(static_cast<float>(place - places.first.back()));
    }
    return places;
}

/// End of the stretch of equal values that begins at `start`.
int end_of(const std::vector<int>& values, int start) {
    int end = start;
    while (end < static_cast<int>(values.size()) && values[end] == values[start]) ++end;
    return end;
}

/// The classes that can win between the corners `at` (offsets into a class's plane).
void candidates(const Output& output, std::size_t plane, const int (&at)[4], float slack, std::vector<int>& able) {
    const int classes = static_cast<int>(output.shape[1]);
    float floor = -std::numeric_limits<float>::infinity();
    const auto corners = [&](int k) {
        const float* value = &output.data[k * plane];
        return std::minmax({value[at[0]], value[at[1]], value[at[2]], value[at[3]]});
    };
    for (int k = 0; k < classes; ++k) floor = std::max(floor, corners(k).first);
    able.clear();
    for (int k = 0; k < classes; ++k)
        if (corners(k).second >= floor - slack) able.push_back(k);
}

void check_finite(const Output& output) {
    if (!std::all_of(output.data.begin(), output.data.end(), [](float value) { return std::isfinite(value); }))
        throw std::runtime_error("the network answered with NaN or infinity");
}

}  // namespace

ClassMap class_map(const Output& output, int width, int height) {
    check_finite(output);
    const int rows = static_cast<int>(output.shape[2]), columns = static_cast<int>(output.shape[3]);
    const std::size_t plane = static_cast<std::size_t>(rows) * columns;
    const auto across = places_of(columns, width), down = places_of(rows, height);
    float largest = 0;
    for (const float value : output.data) largest = std::max(largest, std::abs(value));
    const float slack = 8 * std::numeric_limits<float>::epsilon() * largest;
    ClassMap result{width, height, std::vector<std::uint16_t>(static_cast<std::size_t>(width) * height)};
    std::vector<int> able;
    for (int top = 0, bottom = 0; top < height; top = bottom) {
        bottom = end_of(down.first, top);
        const int upper = down.first[top] * columns;
        const int lower = std::min(down.first[top] + 1, rows - 1) * columns;
        for (int left = 0, right = 0; left < width; left = right) {
            right = end_of(across.first, left);
            const int near = across.first[left], far = std::min(near + 1, columns - 1);
            const int at[4] = {upper + near, upper + far, lower + near, lower + far};
            candidates(output, plane, at, slack, able);
            for (int y = top; y < bottom; ++y) {
                for (int x = left; x < right; ++x) {
                    float best = -std::numeric_limits<float>::infinity();
                    int winner = able.front();
                    for (std::size_t i = 0; able.size() > 1 && i < able.size(); ++i) {
                        const float* value = &output.data[able[i] * plane];
                        const float a = value[at[0]] + (value[at[1]] - value[at[0]]) * across.share[x];
                        const float b = value[at[2]] + (value[at[3]] - value[at[2]]) * across.share[x];
                        const float here = a + (b - a) * down.share[y];
                        if (here > best) best = here, winner = able[i];
                    }
                    result.data[static_cast<std::size_t>(y) * width + x] = static_cast<std::uint16_t>(winner);
                }
            }
        }
    }
    return result;
}

ClassMap restore(const ClassMap& classes, int width, int height) {
    ClassMap result{width, height, {}};
    result.data.reserve(static_cast<std::size_t>(width) * height);
    for (std::int64_t y = 0; y < height; ++y) {
        const auto row = (2 * y + 1) * classes.height / (2 * height) * classes.width;
        for (std::int64_t x = 0; x < width; ++x)
            result.data.push_back(classes.data[row + (2 * x + 1) * classes.width / (2 * width)]);
    }
    return result;
}

std::vector<std::pair<int, double>> best_classes(const Output& output, bool softmax, std::size_t count) {
    check_finite(output);
    std::vector<double> shares(output.data.begin(), output.data.end());
    if (softmax) {
        const double most = *std::max_element(shares.begin(), shares.end());
        for (auto& value : shares) value = std::exp(value - most);
        const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
        for (auto& value : shares) value /= total;
    }
    std::vector<int> order(shares.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return shares[a] > shares[b]; });
    std::vector<std::pair<int, double>> best;
    for (std::size_t i = 0; i < std::min(count, order.size()); ++i) best.emplace_back(order[i], shares[order[i]]);
    return best;
}
