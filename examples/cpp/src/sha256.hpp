// SHA-256 (FIPS 180-4), to see that a file is the one its manifest describes.
#pragma once

#include <string>

/// The 64 hexadecimal digits of the SHA-256 of `data`.
std::string sha256(const std::string& data);
