// Writes a picture file's decoded values, for the tests: PICTURE, then rows of RGB on standard output.
#include <fstream>
#include <iostream>
#include <sstream>

#include "picture.hpp"

int main(int, char** words) {
    std::ostringstream content;
    content << std::ifstream(words[1], std::ios::binary).rdbuf();
    try {
        const auto picture = decode(content.str(), words[1]);
        std::cout.write(reinterpret_cast<const char*>(picture.data.data()),
                        static_cast<std::streamsize>(picture.data.size()));
    } catch (const UserError& error) {
        std::cerr << error.what();
        return 2;
    }
}
