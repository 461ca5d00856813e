// How a picture was held, from the EXIF data of its file.
#pragma once

#include <string>

/// The orientation 1..8 in the EXIF data of a JPEG or a PNG (chunk eXIf); 1 (upright) if there is none.
int orientation(const std::string& file);
