// Costs by source line: instructions' addresses turned into places, and the two ways to print them.
#include <dlfcn.h>

#include <algorithm>
#include <tuple>

#include "costs.h"
#include "fault.h"
#include "launch.h"

namespace emu {

static const char* name_of(CostKind kind) {
    static const char* const NAMES[] = {"shared load", "shared store", "ldmatrix",    "stmatrix",
                                        "cp.async",    "global load",  "global store"};
    return NAMES[int(kind)];
}

// The innermost place that is no line of `kernels/base`: there an access is a vector's or a sum's, and who asked for it
// matters.
static std::string place_of(const std::vector<std::string>& inlined) {
    for (const std::string& place : inlined)
        if (place.find("kernels/base/") == std::string::npos) return place;
    return inlined.empty() ? "?" : inlined.front();
}

// Many instructions with one run of addr2line, which takes a while to start.
static std::map<const void*, std::string> places(const std::vector<const void*>& codes) {
    std::map<const void*, std::string> found;
    Dl_info info;
    for (size_t first = 0; first < codes.size(); first += 1000) {
        const size_t end = std::min(codes.size(), first + 1000);
        if (!dladdr(const_cast<void*>(codes[first]), &info)) break;
        std::string command = formatted("addr2line -a -i -e '%s'", info.dli_fname);
        for (size_t i = first; i < end; i++)
            command +=
                formatted(" %#zx", size_t(static_cast<const char*>(codes[i]) - static_cast<char*>(info.dli_fbase)) - 1);
        FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
        if (!pipe) break;
        std::vector<std::string> inlined;
        char line[1024];
        size_t at = first;
        auto close = [&] {
            if (at > first) found[codes[at - 1]] = place_of(inlined);
            inlined.clear();
        };
        while (fgets(line, sizeof line, pipe)) {
            line[strcspn(line, "\n")] = 0;
            if (!strncmp(line, "0x", 2)) {
                close();
                at++;
                continue;
            }
            if (char* note = strstr(line, " (")) *note = 0;  // (discriminator n)
            if (!strstr(line, "emulated") && line[0] != '?') inlined.push_back(short_name(line));
        }
        close();
        pclose(pipe);
    }
    return found;
}

std::vector<Cost> Costs::lines() const {
    std::vector<const void*> codes;
    for (auto& [kernel, totals] : totals_)
        for (auto& [site, counts] : totals) codes.push_back(site.code);
    std::sort(codes.begin(), codes.end());
    codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
    const auto place = places(codes);
    std::map<std::tuple<std::string, std::string, CostKind, uint32_t>, CostCounts> by_line;
    for (auto& [kernel, totals] : totals_)
        for (auto& [site, counts] : totals) {
            auto found = place.find(site.code);
            const std::string at =
                found == place.end() ? formatted("code at %p (install binutils)", site.code) : found->second;
            by_line[{kernel->name, at, site.kind, site.width}].add(counts);
        }
    std::vector<Cost> costs;
    for (auto& [key, counts] : by_line)
        costs.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), std::get<3>(key), counts});
    return costs;
}

std::string costs_tsv(const std::vector<Cost>& costs) {
    std::string text =
        "kernel\tplace\tkind\twidth\tinstructions\tlanes\twavefronts\twavefronts_ideal\tsectors\tsectors_ideal\n";
    for (const Cost& c : costs) {
        text += c.kernel + '\t' + c.place + '\t' + name_of(c.kind) + '\t' + std::to_string(c.width);
        const CostCounts& n = c.counts;
        for (uint64_t v : {n.instructions, n.lanes, n.wavefronts, n.wavefronts_ideal, n.sectors, n.sectors_ideal})
            text += '\t' + std::to_string(v);
        text += '\n';
    }
    return text;
}

// One table: of what `used` and `ideal` count.
static std::string table(std::vector<Cost> costs, const char* title, const char* unit, uint64_t CostCounts::*used,
                         uint64_t CostCounts::*ideal) {
    auto wasted = [&](const Cost& c) { return c.counts.*used - c.counts.*ideal; };
    std::erase_if(costs, [&](const Cost& c) { return c.counts.*used == 0; });
    std::stable_sort(costs.begin(), costs.end(), [&](const Cost& a, const Cost& b) { return wasted(a) > wasted(b); });
    std::string text = formatted("%s\n%12s %12s %12s %7s %12s %5s %5s  %-12s  %s\n", title, "wasted", unit, "ideal",
                                 "factor", "instructions", "bytes", "lanes", "access", "kernel, line");
    for (const Cost& c : costs) {
        const CostCounts& n = c.counts;
        text += formatted("%12llu %12llu %12llu %7.2f %12llu %5u %5.1f  %-12s  %s, %s\n", (unsigned long long)wasted(c),
                          (unsigned long long)(n.*used), (unsigned long long)(n.*ideal), double(n.*used) / double(n.*ideal),
                          (unsigned long long)n.instructions, c.width, double(n.lanes) / double(n.instructions),
                          name_of(c.kind), c.kernel.c_str(), c.place.c_str());
    }
    return text;
}
std::string costs_table(const std::vector<Cost>& costs) {
    return table(costs, "Shared memory", "wavefronts", &CostCounts::wavefronts, &CostCounts::wavefronts_ideal) + "\n" +
           table(costs, "Device memory", "sectors", &CostCounts::sectors, &CostCounts::sectors_ideal);
}

}  // namespace emu
