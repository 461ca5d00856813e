// JPEG by libjpeg-turbo, which Python's Pillow uses too, where the program was built with it.
#pragma once

#include <optional>
#include <string>

#include "picture.hpp"

/// Which library decodes JPEG, for --help.
extern const char* const jpeg_decoder;

/// Whether the decoded values are those of Python to the last bit.
extern const bool jpeg_as_python;

/// The picture in a JPEG file, not turned upright; nothing if it is no JPEG file or was built without libjpeg-turbo.
std::optional<Picture> decode_jpeg(const std::string& content, const std::string& name);
