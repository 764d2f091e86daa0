// What all products share: how operands are stored, and which tile a block computes.
#pragma once
#include "types.cuh"

enum class Along { summed, free };  // which index of an operand is contiguous

// The next tile's place. Tiles go column by column within bands of about 2048 rows, so that those under way at one time make a
// near-square of the output and find both operands in the level-2 cache.
struct Corner {
    int row, col;
};
template <int BM, int BN> DEVICE Corner corner(int tile, int rows, int cols) {
    constexpr int BAND = 2048 / BM;
    const int row_tiles = (rows + BM - 1) / BM, col_tiles = (cols + BN - 1) / BN;
    const int band = tile / (BAND * col_tiles), inside = tile - band * BAND * col_tiles;
    const int height = min(BAND, row_tiles - band * BAND);
    return {(band * BAND + inside % height) * BM, inside / height * BN};
}

// An output's old value, or 0 where there is no such output.
template <class T> DEVICE float old_value(const T* y, int64_t row, int col, int rows, int cols, int stride) {
    return row < rows && col < cols ? get(y[row * stride + col]) : 0.f;
}
