// The inputs of the next decode step from those of the last one and the tokens it drew.
//
//   ids[r] = drawn[r]    positions[r] += 1    lens[r] += 1    step[r] += 1    places[r] = page and row of the new position
//
// ids, positions, lens, places, drawn [R]; settings [R, 8], of which words 6 and 7 are the step; table [R, W] of page numbers. A row
// whose place is negative is none and stays as it is; a position beyond its pages has the place -1. One thread
// a row. Bytes: some 48 a row; 22 registers, full occupancy; the limiter is the latency of one launch. Oracle: src/ops/advance.rs.
#include "kernel.cuh"

constexpr int WORDS = 8, STEP = 6;

KERNEL(advance, (128), int* ids, int* positions, int* lens, int* places, int* settings, const int* drawn, const int* table, int rows, int width,
       int page) {
    const int r = blockIdx.x * 128 + threadIdx.x;
    if (r >= rows || places[r] < 0) return;
    const int position = positions[r] + 1, slot = position / page;
    ids[r] = drawn[r], positions[r] = position, lens[r] += 1;
    places[r] = slot < width ? table[int64_t(r) * width + slot] * page + position % page : -1;
    uint32_t* step = reinterpret_cast<uint32_t*>(settings + r * WORDS + STEP);
    step[0] += 1;
    if (step[0] == 0) step[1] += 1;
}
