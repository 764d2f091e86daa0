// wgmma: products of a warpgroup, asynchronous. Operands in shared memory are read, and accumulators written, at the wait;
// until then the accumulators hold NaN, and whoever touches them is found. Each warp computes its 16 rows of the 64.
#include "bf16_values.h"
#include "fault.h"
#include "launch.h"
#include "warp.h"

namespace emu {

// Where 8 consecutive elements of an operand tile lie: (mn, k) .. in the direction that is contiguous. `descriptor` is PTX's
// matrix descriptor: start address, leading and stride byte offsets, swizzle.
static uint32_t tile_address(uint64_t descriptor, bool mn_major, int mn, int k) {
    const uint32_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
                   stride = (descriptor >> 32 & 0x3fff) << 4;
    const int layout = int(descriptor >> 62), mode = layout == 0 ? 0 : 4 - layout;  // 1: 128 bytes, 2: 64, 3: 32
    const uint32_t width = 16u << mode;                                             // of the swizzle's rows, in bytes
    uint32_t offset;
    if (!mn_major) {
        const uint32_t group = uint32_t(mn / 8) * stride;
        offset = mode ? group + uint32_t(mn % 8) * width + uint32_t(k) * 2
                      : group + uint32_t(mn % 8) * 16 + uint32_t(k / 8) * leading + uint32_t(k % 8) * 2;
    } else {
        const uint32_t chunk = uint32_t(mn / 8), per_row = width / 16;
        offset = mode ? chunk % per_row * 16 + chunk / per_row * leading + uint32_t(k % 8) * width +
                            uint32_t(k / 8) * stride + uint32_t(mn % 8) * 2
                      : chunk * stride + uint32_t(k % 8) * 16 + uint32_t(k / 8) * leading + uint32_t(mn % 8) * 2;
    }
    return swizzled(start + offset, mode);
}

// Calls f(mn, k, pointer to 8 elements) for an operand tile of `count` rows (or columns) from `first`.
template <class F>
static void each_octet(uint64_t descriptor, bool mn_major, int first, int count, F f) {
    if (!mn_major) {
        for (int i = first; i < first + count; i++)
            for (int k = 0; k < 16; k += 8) f(i, k, tile_address(descriptor, false, i, k));
    } else {
        for (int k = 0; k < 16; k++)
            for (int i = first; i < first + count; i += 8) f(i, k, tile_address(descriptor, true, i, k));
    }
}

struct WgmmaArguments {
    float* d;
    int n, accumulate;
    const uint32_t* a_registers;
    uint64_t a, b;
    bool a_mn_major, b_mn_major;
};

static void check_tile(Block& b, Warp& w, uint64_t descriptor, bool mn_major, int first, int count, Location at) {
    each_octet(descriptor, mn_major, first, count, [&](int, int, uint32_t offset) {
        const char* p = shared_at(offset, 16, "wgmma operand", at);
        if (b.checked)
            check_shared_async(*w.lanes[0], p, 16, Access::read, b.clocks.wgmma_of(w.index), w.wgmma.committed + 1,
                               Proxy::async, at);
    });
}

// The accumulators whose registers these are; the first wgmma in flight takes their values.
static uint32_t take_accumulators(Warp& w, const WgmmaArguments& first) {
    uint32_t index = 0;
    while (index < w.accumulators.size() && w.accumulators[index].registers[0] != first.d) index++;
    if (index == w.accumulators.size()) w.accumulators.emplace_back();
    Accumulators& acc = w.accumulators[index];
    if (!acc.in_flight) {
        acc.count = first.n / 2;
        acc.values.resize(size_t(32 * acc.count));
        for (int i = 0; i < 32; i++) {
            acc.registers[i] = static_cast<WgmmaArguments*>(w.lanes[i]->arguments)->d;
            memcpy(&acc.values[size_t(i * acc.count)], acc.registers[i], sizeof(float) * size_t(acc.count));
            memset(static_cast<void*>(acc.registers[i]), 0xff, sizeof(float) * size_t(acc.count));
        }
    } else if (acc.count != first.n / 2) {
        fail(current()->at, "wgmma: accumulators in flight are used with another width");
    }
    acc.in_flight++;
    return index;
}

static void do_wgmma(Warp& w, uint32_t mask) {
    Block& b = *block;
    const Location at = current()->at;
    if (mask != ~0u || w.index / 4 * 128 + 128 > b.threads)
        fail(at, "wgmma needs a whole warpgroup: 128 threads from a multiple of 128");
    if (!w.wgmma_fenced) fail(at, "wgmma without a wgmma_fence since the warp's last wgmma_wait");
    const auto& first = *static_cast<WgmmaArguments*>(w.lanes[0]->arguments);
    const int widths[] = {32, 64, 96, 128, 192, 256};  // those of base/wgmma.cuh, which the tests have seen
    if (std::find(std::begin(widths), std::end(widths), first.n) == std::end(widths))
        fail(at, "wgmma: n is %d; base/wgmma.cuh has 32, 64, 96, 128, 192 and 256", first.n);
    if (w.wgmma.operations.size() >= 512) fail(at, "more than 512 wgmma in flight (is there no wgmma_wait?)");
    WgmmaOperation op{};
    op.a = first.a, op.b = first.b, op.n = first.n, op.accumulate = first.accumulate;
    op.a_mn_major = first.a_mn_major, op.b_mn_major = first.b_mn_major, op.a_in_registers = first.a_registers;
    for (int i = 0; i < 32; i++) {
        const auto& x = *static_cast<WgmmaArguments*>(w.lanes[i]->arguments);
        if (x.a != first.a || x.b != first.b || x.accumulate != first.accumulate)
            fail(w.lanes[i]->at, "wgmma: lane %d gives other descriptors than lane 0", i);
        if (x.a_registers) memcpy(op.a_registers[i], x.a_registers, sizeof op.a_registers[i]);
    }
    if (!op.a_in_registers) check_tile(b, w, op.a, op.a_mn_major, int(16 * (w.index & 3)), 16, at);
    check_tile(b, w, op.b, op.b_mn_major, 0, op.n, at);
    op.accumulators = take_accumulators(w, first);
    w.wgmma.start(op);
}

static void read_a(const Block& b, const Warp& w, const WgmmaOperation& op, float (&a)[16][16]) {
    if (op.a_in_registers) {
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 4; j++) {
                float* to = &a[fragment_row(i, j)][fragment_column(i, j)];
                to[0] = low_half(op.a_registers[i][j]), to[1] = high_half(op.a_registers[i][j]);
            }
        return;
    }
    const int first = int(16 * (w.index & 3));
    each_octet(op.a, op.a_mn_major, first, 16, [&](int mn, int k, uint32_t offset) {
        const auto* p = reinterpret_cast<const uint16_t*>(b.shared + offset);
        for (int e = 0; e < 8; e++) (op.a_mn_major ? a[mn - first + e][k] : a[mn - first][k + e]) = bf16_value(p[e]);
    });
}

static void perform(Block& b, Warp& w, const WgmmaOperation& op) {
    alignas(64) float a[16][16];
    float (&tile)[16][256] = b.wgmma_tile;
    const int n = op.n;
    read_a(b, w, op, a);
    each_octet(op.b, op.b_mn_major, 0, n, [&](int mn, int k, uint32_t offset) {
        const auto* p = reinterpret_cast<const uint16_t*>(b.shared + offset);
        if (op.b_mn_major)
            for (int e = 0; e < 8; e++) tile[k][mn + e] = bf16_value(p[e]);
        else
            for (int e = 0; e < 8; e++) tile[k + e][mn] = bf16_value(p[e]);
    });
    Accumulators& acc = w.accumulators[op.accumulators];
    for (int m = 0; m < 16; m++) {
        alignas(64) float sums[256] = {};
        for (int k = 0; k < 16; k++) {
            const float x = a[m][k];
            for (int c = 0; c < n; c++) sums[c] += x * tile[k][c];
        }
        for (int c = 0; c < n; c++) {  // lane and register that hold (m, c)
            const int lane = (m & 7) * 4 + (c & 7) / 2, r = c / 8 * 4 + (m >> 3) * 2 + (c & 1);
            float& v = acc.values[size_t(lane * acc.count + r)];
            v = op.accumulate ? v + sums[c] : sums[c];
        }
    }
    if (--acc.in_flight) return;
    for (int i = 0; i < 32; i++) {
        for (int r = 0; r < acc.count; r++)
            if (std::bit_cast<uint32_t>(acc.registers[i][r]) != ~0u)
                fail(current()->at, "wgmma accumulators of lane %d of warp %u were touched while a wgmma was in flight", i,
                     w.index);
        memcpy(acc.registers[i], &acc.values[size_t(i * acc.count)], sizeof(float) * size_t(acc.count));
    }
}

void wgmma_bf16(float* d, int n, const uint32_t* a_registers, uint64_t a, uint64_t b, int accumulate, bool a_mn_major,
                bool b_mn_major, Location at) {
    WgmmaArguments x{d, n, accumulate, a_registers, a, b, a_mn_major, b_mn_major};
    warp_collective(do_wgmma, "wgmma", &x, ~0u, at);
}
void wgmma_fence(Location at) {
    warp_collective([](Warp& w, uint32_t) { w.wgmma_fenced = true; }, "wgmma_fence", nullptr, ~0u, at);
}
void wgmma_commit(Location at) {
    warp_collective([](Warp& w, uint32_t) { w.wgmma.commit(); }, "wgmma_commit", nullptr, ~0u, at);
}

static void complete(Block& b, Warp& w, int groups_left) {
    w.wgmma_fenced = false;
    w.wgmma.complete(groups_left, [&](const WgmmaOperation& op) { perform(b, w, op); });
}

// All threads of a warpgroup have met in the same wait.
void complete_warpgroup(Block& b, uint32_t warpgroup) {
    const int left = *static_cast<int*>(current()->arguments);
    Lane* lanes[4];
    for (uint32_t i = 0; i < 4; i++) {
        Warp& w = *b.warps[4 * warpgroup + i];
        if (*static_cast<int*>(w.lanes[0]->arguments) != left)
            fail(current()->at, "wgmma_wait: the warps wait for different numbers of groups");
        complete(b, w, left);
        lanes[i] = w.lanes[0];
    }
    if (!b.checked) return;
    for (uint32_t i = 0; i < 128; i++) {  // every thread learns that all four warps have read their operands
        Lane& l = b.lanes[128 * warpgroup + i];
        ViewRef known = b.clocks.snapshot(l);
        Gathering gathering{known, ViewRef()};
        for (const Lane* other : lanes)
            b.clocks.advance(gathering, b.clocks.wgmma_of(other->warp->index), other->warp->wgmma.completed);
        l.view = known;
    }
}

// On the GPU the wait is the warp's own; whether it also covers the other warps of the warpgroup is not written down, so by
// default
// (`strict_wgmma`) it does not.
void wgmma_wait(int groups_left, Location at) {
    Lane& l = *current();
    if (block->strict_wgmma) {
        warp_collective([](Warp& w, uint32_t) { complete(*block, w, *static_cast<int*>(current()->arguments)); },
                        "wgmma_wait", &groups_left, ~0u, at);
        return;
    }
    if (l.warp->index / 4 * 128 + 128 > block->threads) fail(at, "wgmma_wait needs a whole warpgroup");
    l.arguments = &groups_left;
    barrier_sync(int(NAMED_BARRIERS + l.warp->index / 4), 128, at);
}

}  // namespace emu
