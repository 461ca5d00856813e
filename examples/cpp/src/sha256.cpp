#include "sha256.hpp"

#include <array>
#include <cmath>
#include <cstdint>

namespace {

std::uint32_t rotate(std::uint32_t value, int by) { return value >> by | value << (32 - by); }

bool is_prime(int number) {
    for (int divisor = 2; divisor * divisor <= number; ++divisor)
        if (number % divisor == 0) return false;
    return true;
}

/// First 32 bits of the fractional part of `root`.
std::uint32_t fraction(long double root) {
    return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
}

/// The standard's constants: roots of the first primes.
template <std::size_t Count>
std::array<std::uint32_t, Count> roots(long double (*root)(long double)) {
    std::array<std::uint32_t, Count> found{};
    int prime = 1;
    for (auto& value : found) {
        do ++prime;
        while (!is_prime(prime));
        value = fraction(root(static_cast<long double>(prime)));
    }
    return found;
}

void mix(std::array<std::uint32_t, 8>& state, const unsigned char* block) {
    static const auto constants = roots<64>([](long double x) { return std::cbrt(x); });
    std::array<std::uint32_t, 64> w{};
    for (int t = 0; t < 16; ++t)
        for (int byte = 0; byte < 4; ++byte) w[t] = w[t] << 8 | block[4 * t + byte];
    for (int t = 16; t < 64; ++t) {
        const auto a = w[t - 15], b = w[t - 2];
        w[t] = w[t - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[t - 7] +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    auto s = state;
    for (int t = 0; t < 64; ++t) {
        const auto first = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                           ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants[t] + w[t];
        const auto second = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                            ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s = {first + second, s[0], s[1], s[2], s[3] + first, s[4], s[5], s[6]};
    }
    for (int i = 0; i < 8; ++i) state[i] += s[i];
}

}  // namespace

std::string sha256(const std::string& data) {
    auto state = roots<8>([](long double x) { return std::sqrt(x); });
    auto at = reinterpret_cast<const unsigned char*>(data.data());
    std::size_t left = data.size();
    for (; left >= 64; at += 64, left -= 64) mix(state, at);
    std::string tail(reinterpret_cast<const char*>(at), left);
    tail += '\x80';
    while (tail.size() % 64 != 56) tail += '\0';
    const std::uint64_t bits = 8 * static_cast<std::uint64_t>(data.size());
    for (int shift = 56; shift >= 0; shift -= 8) tail += static_cast<char>(bits >> shift & 0xff);
    for (std::size_t offset = 0; offset < tail.size(); offset += 64)
        mix(state, reinterpret_cast<const unsigned char*>(tail.data()) + offset);
    std::string digits;
    for (const auto word : state)
        for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 0xf];
    return digits;
}
