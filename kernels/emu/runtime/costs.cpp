// Counting wavefronts and sectors.
//
// Shared memory has 32 banks, four bytes wide. Accesses of up to four bytes are served for the whole warp at once, those of
// eight for half a warp, those of sixteen for a quarter: as many wavefronts as the worst bank has different words; lanes
// that want the same word cost nothing. Device memory moves sectors of 32 bytes.
#include "costs.h"

#include <algorithm>

#include "machine.h"

namespace emu {

void CostCounts::add(const CostCounts& o) {
    instructions += o.instructions, lanes += o.lanes;
    wavefronts += o.wavefronts, wavefronts_ideal += o.wavefronts_ideal;
    sectors += o.sectors, sectors_ideal += o.sectors_ideal;
}

// How many different values there are among the first `n`, which come to stand in front.
static uint32_t distinct(uint64_t* values, uint32_t n) {
    std::sort(values, values + n);
    return uint32_t(std::unique(values, values + n) - values);
}

static void count_wavefronts(CostCounts& c, uint32_t width, const WarpAccess& a) {
    const uint32_t together = width <= 4 ? 32 : 128 / width;  // lanes
    for (uint32_t first = 0; first < 32; first += together) {
        uint64_t words[64];
        uint32_t n = 0;
        for (uint32_t i = first; i < first + together; i++)
            if (a.lanes >> i & 1)
                for (uint64_t word = a.to[i] / 4; word <= (a.to[i] + width - 1) / 4; word++) words[n++] = word;
        if (!n) continue;
        n = distinct(words, n);
        uint32_t banks[32] = {}, worst = 0;
        for (uint32_t i = 0; i < n; i++) worst = std::max(worst, ++banks[words[i] % 32]);
        c.wavefronts += worst;
        c.wavefronts_ideal += (n + 31) / 32;
    }
}

static void count_sectors(CostCounts& c, uint32_t width, uint32_t lanes, const uint64_t* addresses) {
    constexpr uint64_t SECTOR = 32;
    uint64_t sectors[64], bytes[32 * 16];
    uint32_t n = 0, m = 0;
    for (uint32_t i = 0; i < 32; i++) {
        if (!(lanes >> i & 1)) continue;
        for (uint64_t s = addresses[i] / SECTOR; s <= (addresses[i] + width - 1) / SECTOR; s++) sectors[n++] = s;
        for (uint32_t b = 0; b < width; b++) bytes[m++] = addresses[i] + b;
    }
    c.sectors += distinct(sectors, n);
    c.sectors_ideal += (distinct(bytes, m) + SECTOR - 1) / SECTOR;
}

CostCounts cost_of(const CostSite& site, const WarpAccess& a) {
    CostCounts c;
    c.instructions = 1;
    c.lanes = uint64_t(__builtin_popcount(a.lanes));
    const bool global = site.kind == CostKind::global_load || site.kind == CostKind::global_store;
    if (global) count_sectors(c, site.width, a.lanes, a.to);
    else count_wavefronts(c, site.width, a);
    if (site.kind == CostKind::cp_async) count_sectors(c, site.width, a.reading, a.from);
    return c;
}

void Costs::begin_launch(const Kernel* kernel) {
    current_ = &totals_[kernel];
    warps_.clear();
    warps_.resize(MAX_THREADS / 32);
}

WarpAccess& Costs::next(const Lane& lane, const CostSite& site) {
    PendingWarp& w = warps_[lane.warp->index];
    auto& entry = *w.sites.try_emplace(site).first;
    Pending& p = entry.second;
    if (p.accesses.empty()) w.touched.push_back(&entry);
    const uint32_t turn = p.executions[lane.lane]++;
    if (turn == p.accesses.size()) p.accesses.emplace_back();
    WarpAccess& a = p.accesses[turn];
    a.lanes |= 1u << lane.lane;
    return a;
}

void Costs::access(const Lane& lane, CostKind kind, uint64_t address, uint64_t size, const void* code) {
    // Copies of odd sizes go piece by piece, as wide as their alignment allows.
    for (uint32_t part = 0; size; part++) {
        uint64_t width = std::min<uint64_t>(16, std::bit_floor(size));
        if (address % width) width = address & -address;
        next(lane, {code, part, uint8_t(width), kind}).to[lane.lane] = address;
        address += width, size -= width;
    }
}
void Costs::copy(const Lane& lane, uint64_t to, uint64_t from, uint32_t bytes, bool reads, const void* code) {
    WarpAccess& a = next(lane, {code, 0, uint8_t(bytes), CostKind::cp_async});
    a.to[lane.lane] = to, a.from[lane.lane] = from;
    if (reads) a.reading |= 1u << lane.lane;
}
void Costs::matrix(CostKind kind, const uint32_t* rows, uint32_t count, const void* code) {
    const CostSite site{code, 0, 16, kind};
    WarpAccess a;
    for (uint32_t i = 0; i < count; i++) a.to[i] = rows[i], a.lanes |= 1u << i;
    (*current_)[site].add(cost_of(site, a));
}

void Costs::finish(PendingWarp& w) {
    for (auto* entry : w.touched) {
        CostCounts& total = (*current_)[entry->first];
        for (const WarpAccess& a : entry->second.accesses) total.add(cost_of(entry->first, a));
        entry->second.accesses.clear();
        std::fill_n(entry->second.executions, 32, 0);
    }
    w.touched.clear();
}
void Costs::meet(const Warp& warp) { finish(warps_[warp.index]); }
void Costs::add(const Costs& other) {
    for (auto& [kernel, totals] : other.totals_)
        for (auto& [site, counts] : totals) totals_[kernel][site].add(counts);
}
void Costs::end_block() {
    for (PendingWarp& w : warps_) finish(w);
}

}  // namespace emu
