#include "jpeg.hpp"

#ifdef MSCSA_LIBJPEG

#include <csetjmp>
#include <cstdio>
#include <memory>
#include <vector>

#include <jpeglib.h>

const char* const jpeg_decoder = "libjpeg-turbo, as in Python";
const bool jpeg_as_python = true;

namespace {

/// libjpeg reports failure by a function that must not return; an exception cannot cross its C frames.
struct Failure {
    jpeg_error_mgr manager;
    std::jmp_buf place;
    char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr state) {
    auto* failure = reinterpret_cast<Failure*>(state->err);
    failure->manager.format_message(state, failure->text);
    std::longjmp(failure->place, 1);
}

void stay_silent(j_common_ptr) {}

/// The file ends early: as in Python an error, not gray rows.
boolean no_more(j_decompress_ptr state) {
    auto* failure = reinterpret_cast<Failure*>(state->err);
    std::snprintf(failure->text, sizeof failure->text, "the file is truncated");
    std::longjmp(failure->place, 1);
}

/// Pillow's product of two 8-bit values over 255.
int over_255(int a, int b) {
    const int product = a * b + 128;
    return ((product >> 8) + product) >> 8;
}

/// Everything that has a destructor lives in the caller, over which no jump goes.
bool read(jpeg_decompress_struct& state, Failure& failure, const std::string& content, const std::string& name,
          Picture& picture, std::vector<std::uint8_t>& row) {
    if (setjmp(failure.place)) return false;
    jpeg_create_decompress(&state);
    jpeg_mem_src(&state, reinterpret_cast<const unsigned char*>(content.data()), content.size());
    state.src->fill_input_buffer = no_more;
    jpeg_read_header(&state, TRUE);
    check_size(state.image_width, state.image_height, name);
    const bool inks = state.num_components == 4;
    state.out_color_space = inks ? JCS_CMYK : state.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&state);
    picture = {static_cast<int>(state.output_width), static_cast<int>(state.output_height), {}};
    picture.data.resize(std::size_t{3} * state.output_width * state.output_height);
    row.resize(static_cast<std::size_t>(state.output_width) * state.output_components);
    auto* to = picture.data.data();
    while (state.output_scanline < state.output_height) {
        JSAMPROW from = row.data();
        jpeg_read_scanlines(&state, &from, 1);
        for (JDIMENSION x = 0; x < state.output_width; ++x, to += 3) {
            const auto* value = from + static_cast<std::size_t>(x) * state.output_components;
            for (int channel = 0; channel < 3; ++channel) {
                // Four components are inverted inks, as Adobe writes them.
                const int black = inks ? value[3] : 0;
                to[channel] = inks ? static_cast<std::uint8_t>(black - over_255(255 - value[channel], black))
                                   : value[state.output_components == 1 ? 0 : channel];
            }
        }
    }
    return true;
}

}  // namespace

std::optional<Picture> decode_jpeg(const std::string& content, const std::string& name) {
    if (!is_jpeg(content)) return std::nullopt;
    jpeg_decompress_struct state{};
    Failure failure{};
    state.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = fail;
    failure.manager.output_message = stay_silent;
    Picture picture;
    std::vector<std::uint8_t> row;
    const std::unique_ptr<jpeg_decompress_struct, decltype(&jpeg_destroy_decompress)> guard(&state,
                                                                                          jpeg_destroy_decompress);
    if (!read(state, failure, content, name, picture, row))
        throw UserError("'" + name + "' is not a readable picture: " + failure.text);
    return picture;
}

#else

const char* const jpeg_decoder = "stb_image, whose values differ from Python's by some steps of 255";
const bool jpeg_as_python = false;

std::optional<Picture> decode_jpeg(const std::string&, const std::string&) { return std::nullopt; }

#endif
