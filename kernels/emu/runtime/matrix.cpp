// ldmatrix, stmatrix and mma.sync. Products are exact; sums are f32 FMAs over k ascending, added to the accumulator at the
// end.
#include <algorithm>

#include "bf16_values.h"
#include "costs.h"
#include "fault.h"
#include "warp.h"

namespace emu {

static void require_full_warp(uint32_t mask, const char* what) {
    if (mask != ~0u) fail(current()->at, "%s needs all 32 lanes of the warp", what);
}

struct MatrixArguments {
    uint32_t* registers;
    int matrices;
    bool transposed;
    char* row;
    const void* code;
};

// Checks the row that each lane gives, and calls f(matrix, row, pointer).
template <class F>
static void each_row(Warp& w, const char* what, Access kind, F f) {
    const auto& first = *static_cast<MatrixArguments*>(w.lanes[0]->arguments);
    const int rows = 8 * first.matrices;
    uint32_t offsets[32];
    for (int i = 0; i < rows; i++) {
        Lane& l = *w.lanes[i];
        char* row = static_cast<MatrixArguments*>(l.arguments)->row;
        const uint32_t offset = offsets[i] = require_shared(row, 16, what, l.at);
        if (offset % 16)
            fail(l.at, "MISALIGNED %s: the row of lane %d, %s, is not aligned to 16 bytes", what, i,
                 block->describe_shared(offset).c_str());
        if (block->checked) check_shared(l, row, 16, kind, &l.at, nullptr);
        f(i / 8, i % 8, row);
    }
    if (block->costs)
        block->costs->matrix(kind == Access::read ? CostKind::ldmatrix : CostKind::stmatrix, offsets, uint32_t(rows),
                             first.code);
}

static void do_ldmatrix(Warp& w, uint32_t mask) {
    require_full_warp(mask, "ldmatrix");
    uint16_t m[4][8][8];
    each_row(w, "ldmatrix", Access::read, [&](int matrix, int row, const char* p) { memcpy(m[matrix][row], p, 16); });
    const auto& first = *static_cast<MatrixArguments*>(w.lanes[0]->arguments);
    for (int i = 0; i < 32; i++) {
        uint32_t* r = static_cast<MatrixArguments*>(w.lanes[i]->arguments)->registers;
        const int g = i / 4, t = i % 4;
        for (int j = 0; j < first.matrices; j++) {
            if (first.transposed) r[j] = m[j][2 * t][g] | uint32_t(m[j][2 * t + 1][g]) << 16;
            else memcpy(&r[j], &m[j][g][2 * t], 4);
        }
    }
}
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Location at) {
    MatrixArguments a{r, matrices, transposed, static_cast<char*>(const_cast<void*>(row)), __builtin_return_address(0)};
    warp_collective(do_ldmatrix, "ldmatrix", &a, ~0u, at);
}

static void do_stmatrix(Warp& w, uint32_t mask) {
    require_full_warp(mask, "stmatrix");
    uint16_t m[4][8][8];
    const auto& first = *static_cast<MatrixArguments*>(w.lanes[0]->arguments);
    const int count = std::min(first.matrices, 4);
    for (int i = 0; i < 32; i++) {
        const uint32_t* r = static_cast<MatrixArguments*>(w.lanes[i]->arguments)->registers;
        const int g = i / 4, t = i % 4;
        for (int j = 0; j < count; j++) {
            if (first.transposed) m[j][2 * t][g] = uint16_t(r[j]), m[j][2 * t + 1][g] = uint16_t(r[j] >> 16);
            else memcpy(&m[j][g][2 * t], &r[j], 4);
        }
    }
    each_row(w, "stmatrix", Access::write, [&](int matrix, int row, char* p) { memcpy(p, m[matrix][row], 16); });
}
void stmatrix(const uint32_t* r, int matrices, bool transposed, void* row, Location at) {
    MatrixArguments a{const_cast<uint32_t*>(r), matrices, transposed, static_cast<char*>(row), __builtin_return_address(0)};
    warp_collective(do_stmatrix, "stmatrix", &a, ~0u, at);
}

typedef float Row8 __attribute__((vector_size(32)));
struct MmaArguments {
    float* d;
    const uint32_t *a, *b;
};
static void do_mma(Warp& w, uint32_t mask) {
    require_full_warp(mask, "mma.sync");
    alignas(32) float a[16][16];
    Row8 b[16], d[16];
    for (int i = 0; i < 32; i++) {
        const auto& x = *static_cast<MmaArguments*>(w.lanes[i]->arguments);
        const int g = i / 4, t = i % 4;
        for (int j = 0; j < 4; j++) {
            float* to = &a[fragment_row(i, j)][fragment_column(i, j)];
            to[0] = low_half(x.a[j]), to[1] = high_half(x.a[j]);
        }
        for (int j = 0; j < 2; j++) b[2 * t + 8 * j][g] = low_half(x.b[j]), b[2 * t + 1 + 8 * j][g] = high_half(x.b[j]);
        d[g][2 * t] = x.d[0], d[g][2 * t + 1] = x.d[1], d[g + 8][2 * t] = x.d[2], d[g + 8][2 * t + 1] = x.d[3];
    }
    for (int m = 0; m < 16; m++) {
        Row8 sum = {};
        for (int k = 0; k < 16; k++) sum += a[m][k] * b[k];
        d[m] += sum;
    }
    for (int i = 0; i < 32; i++) {
        float* to = static_cast<MmaArguments*>(w.lanes[i]->arguments)->d;
        const int g = i / 4, t = i % 4;
        to[0] = d[g][2 * t], to[1] = d[g][2 * t + 1], to[2] = d[g + 8][2 * t], to[3] = d[g + 8][2 * t + 1];
    }
}
void mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, Location at) {
    MmaArguments x{d, a, b};
    warp_collective(do_mma, "mma.sync", &x, ~0u, at);
}

}  // namespace emu
