#include "processor.hpp"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include <sys/utsname.h>

namespace {

/// The first line of flags in /proc/cpuinfo, as x86 ("flags") and ARM ("Features") have it.
const std::set<std::string>& extensions() {
    static const auto found = [] {
        std::ifstream stream("/proc/cpuinfo");
        for (std::string line; std::getline(stream, line);) {
            if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
            std::istringstream words(line.substr(std::min(line.size(), line.find(':') + 1)));
            std::set<std::string> all;
            for (std::string word; words >> word;) all.insert(word);
            return all;
        }
        return std::set<std::string>{};
    }();
    return found;
}

bool has(const std::string& name) {
    const auto& all = extensions();
    return all.count(name) > 0 || (name == "vnni" && (all.count("avx512_vnni") > 0 || all.count("avx_vnni") > 0));
}

}  // namespace

std::string architecture() {
    utsname names{};
    uname(&names);
    const std::string machine = names.machine;
    return machine == "arm64" ? "aarch64" : machine;
}

bool lists_extensions() { return !extensions().empty(); }

std::vector<std::string> lacking(const std::vector<std::string>& wanted) {
    std::vector<std::string> missing;
    if (lists_extensions())
        std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(missing),
                     [](const std::string& name) { return !has(name); });
    return missing;
}
