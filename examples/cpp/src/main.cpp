// Answers for a picture, or checks this program against the bundle's golden pair. See README.md.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>

#include "answer.hpp"
#include "bundle.hpp"
#include "choice.hpp"
#include "jpeg.hpp"
#include "network.hpp"
#include "npy.hpp"
#include "picture.hpp"

namespace {

const char* const usage =
    "usage: segment-RUNTIME BUNDLE PICTURE [--classes MAP.npy] [--overlay PICTURE.png] [options]\n"
    "       segment-RUNTIME BUNDLE --check [options]\n"
    "options: --artifact PATH (as the manifest names it)  --threads N (1)  --library LIBRARY.so\n"
    "Exit status: 0 good, 2 something you can put right, 4 the runtime failed, 5 the check failed.\n";

constexpr int most_threads = 1024;

struct Options {
    std::string bundle, picture, artifact, library, classes, overlay;
    int threads = 1;
    bool check = false, help = false;
};

int threads_of(const std::string& text) {
    int threads = 0;
    const auto* end = text.data() + text.size();
    const auto [rest, problem] = std::from_chars(text.data(), end, threads);
    if (problem != std::errc{} || rest != end || threads < 1 || threads > most_threads)
        throw UserError("--threads takes a whole number from 1 to " + std::to_string(most_threads) + ", not '" + text +
                        "'");
    return threads;
}

/// A file with another ending than its content is told to have would mislead whoever opens it.
void check_ending(const std::string& option, const std::string& path, const std::string& ending) {
    auto last = path.size() < ending.size() ? "" : path.substr(path.size() - ending.size());
    std::transform(last.begin(), last.end(), last.begin(), [](unsigned char letter) { return std::tolower(letter); });
    if (!path.empty() && last != ending)
        throw UserError(option + " writes a " + ending.substr(1) + " file; '" + path + "' has to end in " + ending);
}

Options parse(int count, char** words) {
    Options options;
    std::vector<std::string> places;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const auto value = [&]() -> std::string {
            if (++i >= count) throw UserError(word + " needs a value\n" + usage);
            return words[i];
        };
        if (word == "--check") options.check = true;
        else if (word == "--artifact") options.artifact = value();
        else if (word == "--library") options.library = value();
        else if (word == "--classes") options.classes = value();
        else if (word == "--overlay") options.overlay = value();
        else if (word == "--threads") options.threads = threads_of(value());
        else if (word == "--help" || word == "-h") options.help = true;
        else if (word.rfind("--", 0) == 0) throw UserError("unknown option " + word + "\n" + usage);
        else places.push_back(word);
    }
    if (options.help) return options;
    if (places.size() != (options.check ? 1U : 2U)) throw UserError(usage);
    options.bundle = places[0];
    if (!options.check) options.picture = places[1];
    if (options.check && !(options.classes + options.overlay).empty())
        throw UserError("--check writes no files; leave out --classes and --overlay");
    check_ending("--classes", options.classes, ".npy");
    check_ending("--overlay", options.overlay, ".png");
    return options;
}

/// Whether the classes in the answer are those that the manifest has labels for.
void check_classes(std::int64_t found, const Bundle& bundle, const Artifact& artifact) {
    if (found != static_cast<std::int64_t>(bundle.labels.size()))
        throw UserError("the manifest contradicts itself: '" + artifact.path + "' answers with " +
                        std::to_string(found) + " classes, but there are " + std::to_string(bundle.labels.size()) +
                        " labels");
}

/// The class map at the input's size.
ClassMap classes_of(const Output& output, const Bundle& bundle, const Artifact& artifact) {
    const auto& post = artifact.postprocess;
    if (post.decide == "none" && output.shape.size() == 3) {
        const auto most = std::max_element(output.data.begin(), output.data.end());
        if (most != output.data.end() && *most >= static_cast<float>(bundle.labels.size()))
            check_classes(static_cast<std::int64_t>(*most) + 1, bundle, artifact);
        return {static_cast<int>(output.shape[2]), static_cast<int>(output.shape[1]),
                std::vector<std::uint16_t>(output.data.begin(), output.data.end())};
    }
    if (post.decide != "argmax" || output.shape.size() != 4)
        throw UserError("'" + artifact.path + "' answers neither with values per class nor with a class map");
    check_classes(output.shape[1], bundle, artifact);
    const bool small = post.upsample == "bilinear";
    return class_map(output, small ? bundle.preprocess.width : static_cast<int>(output.shape[3]),
                     small ? bundle.preprocess.height : static_cast<int>(output.shape[2]));
}

double farthest(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double(a[i]) - b[i]));
    return most;
}

template <typename Value>
double percent_equal(const std::vector<std::uint16_t>& ours, const std::vector<Value>& theirs) {
    if (ours.size() != theirs.size()) return 0;
    std::size_t equal = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) equal += ours[i] == theirs[i];
    return 100.0 * static_cast<double>(equal) / static_cast<double>(ours.size());
}

std::string told(const Choice& choice) { return std::string(runtime_name) + (choice.bf16 ? " in bf16" : ""); }

int check(const Bundle& bundle, const Choice& choice, Network& network) {
    const auto& artifact = *choice.artifact;
    if (!bundle.golden) throw UserError("the bundle has no golden pair");
    const auto& golden = *bundle.golden;
    const std::string precision = artifact.precision == "fp32" && choice.bf16 ? "bf16" : artifact.precision;
    const auto limits = golden.tolerance.find(precision);
    if (limits == golden.tolerance.end()) throw UserError("the golden pair has no tolerance for " + precision);
    auto input = parse_npy<float>(bundle.read(golden.input), "<f4");
    const auto& spec = bundle.preprocess;
    // OpenVINO would read past the end of a shorter one.
    if (input.size() != std::size_t{3} * spec.height * spec.width)
        throw UserError("'" + golden.input + "' holds " + std::to_string(input.size()) +
                        " values, the network takes 3x" + std::to_string(spec.height) + "x" + std::to_string(spec.width));
    // A graph that ends in a class map has no values to compare.
    const bool valued = artifact.output != "classmap";
    const auto expected = valued ? parse_npy<float>(bundle.read(golden.output), "<f4") : std::vector<float>{0, 1};
    if (expected.empty()) throw UserError("'" + golden.output + "' holds no values");
    const auto prepared = to_input(decode(bundle.read(golden.picture), golden.picture), spec);
    const auto& std = spec.std;
    const double steps = std::round(255 * *std::max_element(std.begin(), std.end()) * farthest(prepared, input));
    const auto output = network.run(input);
    const auto [least, most] = std::minmax_element(expected.begin(), expected.end());
    const double over_range = valued ? farthest(output.data, expected) / (*most - *least) : 0;
    double agreement = 0;
    if (bundle.task == "seg") {
        const auto ours = classes_of(output, bundle, artifact).data;
        const auto content = bundle.read(golden.answer);
        agreement = bundle.labels.size() <= 256 ? percent_equal(ours, parse_npy<std::uint8_t>(content, "|u1"))
                                                : percent_equal(ours, parse_npy<std::uint16_t>(content, "<u2"));
    } else {
        check_classes(static_cast<std::int64_t>(output.data.size()), bundle, artifact);
        agreement = best_classes(output, false)[0].first == most - expected.begin() ? 100 : 0;
    }
    const auto& limit = limits->second;
    const bool passed = steps <= 1 && agreement >= limit.argmax_agreement &&
                        over_range <= limit.max_abs_over_range.value_or(std::numeric_limits<double>::infinity());
    std::printf("%s: %s on %s: input differs by %g of 255, ", passed ? "passed" : "failed", artifact.path.c_str(),
                told(choice).c_str(), steps);
    if (valued) std::printf("output by %.2e of its range, ", over_range);
    std::printf("%.4f %% of the decisions equal\n", agreement);
    return passed ? 0 : 5;
}

Picture overlay_of(const Picture& picture, const ClassMap& classes, const Bundle& bundle) {
    Picture mixed = picture;
    for (std::size_t pixel = 0; pixel < classes.data.size(); ++pixel) {
        const auto id = classes.data[pixel];
        if (id >= bundle.palette.size() || bundle.labels[id] == "background") continue;
        for (int channel = 0; channel < 3; ++channel) {
            auto& value = mixed.data[3 * pixel + channel];
            value = static_cast<std::uint8_t>(std::lround(0.45 * value + 0.55 * bundle.palette[id][channel]));
        }
    }
    return mixed;
}

int predict(const Bundle& bundle, const Choice& choice, Network& network, const Options& options) {
    const auto& artifact = *choice.artifact;
    const auto content = read_file(options.picture);
    const auto picture = decode(content, options.picture);
    if (is_jpeg(content) && !jpeg_as_python)
        std::cerr << "note: '" << options.picture << "' was decoded by " << jpeg_decoder << "\n";
    const auto begin = std::chrono::steady_clock::now();
    auto input = to_input(picture, bundle.preprocess);
    const auto output = network.run(input);
    if (bundle.task == "cls") {
        check_classes(static_cast<std::int64_t>(output.data.size()), bundle, artifact);
        for (const auto& [id, share] : best_classes(output, artifact.postprocess.decide == "softmax"))
            std::printf("%6.2f %%  %s\n", 100 * share, bundle.labels[id].c_str());
        return 0;
    }
    if (bundle.preprocess.crop) throw UserError("the bundle segments a crop, which cannot be laid over the picture");
    const auto classes = restore(classes_of(output, bundle, artifact), picture.width, picture.height);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
    std::vector<std::size_t> counts(bundle.labels.size());
    for (const auto id : classes.data) ++counts[id];
    for (std::size_t id = 0; id < counts.size(); ++id)
        if (1000 * counts[id] >= classes.data.size())
            std::printf("%6.2f %%  %s\n", 100.0 * double(counts[id]) / double(classes.data.size()),
                        bundle.labels[id].c_str());
    std::printf("%s on %s, %.1f ms\n", artifact.path.c_str(), told(choice).c_str(), spent.count());
    if (!options.classes.empty()) write_npy(options.classes, classes.data, classes.height, classes.width);
    if (!options.overlay.empty()) write_png(options.overlay, overlay_of(picture, classes, bundle));
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        const auto options = parse(count, words);
        if (options.help) {
            std::cout << usage << "JPEG is decoded by " << jpeg_decoder << ".\n";
            return 0;
        }
        const auto bundle = read_bundle(options.bundle);
        if (bundle.task == "cls" && !(options.classes + options.overlay).empty())
            throw UserError("the bundle classifies: there is no class map for --classes and --overlay");
        const auto choice = choose(bundle, {runtime_name, loadable_kinds, executable_precisions()}, options.artifact);
        for (const auto& doubt : doubts(bundle, *choice.artifact)) std::cerr << "note: " << doubt << "\n";
        const auto network = open_network(bundle, choice, options.threads, options.library);
        return options.check ? check(bundle, choice, *network) : predict(bundle, choice, *network, options);
    } catch (const UserError& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "error: " << runtime_name << " failed: " << error.what() << "\n";
        return 4;
    }
}
