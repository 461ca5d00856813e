#include "orientation.hpp"

#include <cstddef>

namespace {

/// A file's bytes; past its end, zeros.
struct Bytes {
    const std::string& file;

    std::size_t number(std::size_t place, int size, bool little = false) const {
        std::size_t value = 0;
        for (int i = 0; i < size; ++i) {
            const auto at = place + (little ? size - 1 - i : i);
            value = value << 8 | (at < file.size() ? static_cast<unsigned char>(file[at]) : 0U);
        }
        return value;
    }
};

/// The orientation in the TIFF structure that begins at `base`.
int in_tiff(const Bytes& bytes, std::size_t base) {
    const bool little = bytes.number(base, 1) == 'I';
    const auto table = base + bytes.number(base + 4, 4, little);
    const auto entries = bytes.number(table, 2, little);
    for (std::size_t entry = 0; entry < entries; ++entry) {
        const auto place = table + 2 + 12 * entry;
        if (bytes.number(place, 2, little) != 0x0112) continue;
        const auto found = bytes.number(place + 8, 2, little);
        return found >= 1 && found <= 8 ? static_cast<int>(found) : 1;
    }
    return 1;
}

int in_jpeg(const Bytes& bytes) {
    for (std::size_t at = 2; bytes.number(at, 1) == 0xff && bytes.number(at + 1, 1) != 0xda;) {
        const bool exif = bytes.number(at + 1, 1) == 0xe1 && bytes.file.compare(at + 4, 4, "Exif") == 0;
        if (exif) return in_tiff(bytes, at + 10);
        at += 2 + bytes.number(at + 2, 2);
    }
    return 1;
}

int in_png(const Bytes& bytes) {
    // Each chunk: length, name, data, checksum.
    for (std::size_t at = 8; at + 12 <= bytes.file.size(); at += 12 + bytes.number(at, 4))
        if (bytes.file.compare(at + 4, 4, "eXIf") == 0) return in_tiff(bytes, at + 8);
    return 1;
}

}  // namespace

int orientation(const std::string& file) {
    if (file.compare(0, 2, "\xff\xd8") == 0) return in_jpeg({file});
    return file.compare(0, 4, "\x89PNG") == 0 ? in_png({file}) : 1;
}
