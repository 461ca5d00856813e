// NumPy's file format, version 1, little-endian, C order.
#pragma once

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "bundle.hpp"

/// The values in a .npy file's content; `descr` is the type they must have, e.g. "<f4".
template <typename Value>
std::vector<Value> parse_npy(const std::string& content, const std::string& descr) {
    if (content.size() < 10 || content.compare(1, 5, "NUMPY") != 0) throw UserError("a golden file is no .npy file");
    const std::size_t start = 10 + static_cast<unsigned char>(content[8]) + 256 * static_cast<unsigned char>(content[9]);
    if (start > content.size() || content.substr(10, start - 10).find("'" + descr + "'") == std::string::npos)
        throw UserError("a golden file does not hold values of type " + descr);
    std::vector<Value> values((content.size() - start) / sizeof(Value));
    std::memcpy(values.data(), content.data() + start, values.size() * sizeof(Value));
    return values;
}

/// Writes (height, width) uint16.
inline void write_npy(const std::string& path, const std::vector<std::uint16_t>& values, int height, int width) {
    std::string header = "{'descr': '<u2', 'fortran_order': False, 'shape': (" + std::to_string(height) + ", " +
                         std::to_string(width) + "), }";
    header.append(63 - (10 + header.size()) % 64, ' ');
    header += '\n';
    std::ofstream stream(path, std::ios::binary);
    stream << std::string("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() % 256)
           << static_cast<char>(header.size() / 256) << header;
    stream.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(2 * values.size()));
    if (!stream.flush()) throw UserError("cannot write '" + path + "'");
}
