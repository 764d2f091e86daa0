// What the attention kernels share: tiles of bf16 in shared memory, their fragments, and the list of work.
//
// A tile is some rows of one head, D columns each, in chunks of 16 bytes. Chunks of a row are permuted by an exclusive or with
// bits of the row, so that the eight rows that one phase of ldmatrix reads lie in eight different groups of banks.
#pragma once
#include "ptx.cuh"
#include "types.cuh"

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// ---------------------------------------------------------------- tiles

template <int D> DEVICE int permuted(int row, int chunk) {
    return D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
}
// The chunk's place in a tile.
template <int D> DEVICE bf16* chunk_at(bf16* tile, int row, int chunk) {
    return tile + row * D + permuted<D>(row, chunk) * 8;
}

// Starts copying `ROWS` rows into a tile, by all threads of the block; zeros where there are fewer `rows` or the head has
// fewer columns (`size`) than the tile.
template <int D, int ROWS, int THREADS>
DEVICE void load_tile(bf16* tile, const bf16* from, int stride, int rows, int size) {
    constexpr int ACROSS = D <= 64 ? 8 : 16, STEP = THREADS / ACROSS;
    static_assert(ROWS % STEP == 0 && D / 8 <= ACROSS);
    const int chunk = threadIdx.x % ACROSS, first = threadIdx.x / ACROSS;
    if (chunk >= D / 8) return;
    const bool there = chunk * 8 < size;
    from += int64_t(first) * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++)
        cp_async16(chunk_at<D>(tile, first + i * STEP, chunk), from + int64_t(i * STEP) * stride, there && first + i * STEP < rows);
}

// The same for rows that a list names; zeros also where a name is no row of the tensor's `limit`. Two rows at a time: more names in
// flight would spill where K = 128 already takes every register.
template <int D, int ROWS, int THREADS>
DEVICE void load_listed(bf16* tile, const bf16* from, int stride, const int* places, int limit, int rows, int size) {
    constexpr int ACROSS = D <= 64 ? 8 : 16, STEP = THREADS / ACROSS;
    static_assert(ROWS % STEP == 0 && D / 8 <= ACROSS);
    const int chunk = threadIdx.x % ACROSS, first = threadIdx.x / ACROSS;
    if (chunk >= D / 8) return;
    from += chunk * 8;
#pragma unroll 2
    for (int i = 0; i < ROWS / STEP; i++) {
        const int row = first + i * STEP, place = row < rows ? places[row] : -1;
        const bool there = place >= 0 && place < limit;
        cp_async16(chunk_at<D>(tile, row, chunk), from + int64_t(there ? place : 0) * stride, there && chunk * 8 < size);
    }
}

// Where a lane points ldmatrix within 16 rows and 16 columns of a tile, starting at row `row` (a multiple of 8) and column 16 `step`: at
// row `down` of them, and at the right eight columns where `across` is 1.
template <int D> DEVICE const bf16* within(const bf16* tile, int row, int step, int down, int across) {
    const int here = down * D, with = permuted<D>(down, across);
    // The first form is one instruction a step, as a row's bits lie above a column's.
    return tile + row * D + (D % 64 == 0 ? (here + with * 8) ^ (step * 16) : here + ((2 * step) ^ with) * 8);
}
// For a left operand, 16 rows by 16 summed columns: the matrices that come back are the upper rows' left columns, the lower rows' left
// columns, the upper rows' right columns, the lower rows' right columns. Transposed, of a right operand whose rows are summed, 0 and 1
// belong to the left eight columns' product, 2 and 3 to the right ones'.
template <int D> DEVICE const bf16* fragment(const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % WARP;
    return within<D>(tile, row, step, lane % 16, lane / 16);
}
// For a right operand whose summed index runs along the columns: 0 and 1 belong to the upper eight rows' product, 2 and 3 to the lower
// ones'. In this order, as a product wants its two registers side by side.
template <int D> DEVICE const bf16* right_fragment(const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % WARP;
    return within<D>(tile, row, step, lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// d[16 x 8 N] += a[16 x D] tile[8 N x D]^T.
template <int D, int N> DEVICE void multiply_columns(float (&d)[N][4], const uint32_t (&a)[D / 16][4], const bf16* tile) {
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            ldmatrix_x4(right, right_fragment<D>(tile, n * 8, step));
            mma_bf16(d[n], a[step], right[0], right[1]);
            mma_bf16(d[n + 1], a[step], right[2], right[3]);
        }
    }
}
// The same; `a` is 16 rows of another tile.
template <int D, int N> DEVICE void multiply_columns(float (&d)[N][4], const bf16* a, const bf16* tile) {
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t left[4];
        ldmatrix_x4(left, fragment<D>(a, 0, step));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            ldmatrix_x4(right, right_fragment<D>(tile, n * 8, step));
            mma_bf16(d[n], left, right[0], right[1]);
            mma_bf16(d[n + 1], left, right[2], right[3]);
        }
    }
}
// Sums of one product, rounded, as they lie the left operand of the next: columns 16 `step` and on.
template <int N> DEVICE void as_operand(uint32_t (&left)[4], const float (&sums)[N][4], int step) {
    const float(&x)[4] = sums[2 * step], (&y)[4] = sums[2 * step + 1];
    left[0] = pack_bf16(x[0], x[1]), left[1] = pack_bf16(x[2], x[3]);
    left[2] = pack_bf16(y[0], y[1]), left[3] = pack_bf16(y[2], y[3]);
}
// d[16 x D] += round(a[16 x 8 N]) tile[8 N x D].
template <int D, int N> DEVICE void multiply_rows(float (&d)[D / 8][4], const float (&a)[N][4], const bf16* tile) {
#pragma unroll
    for (int step = 0; step < N / 2; step++) {
        uint32_t left[4];
        as_operand(left, a, step);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t right[4];
            ldmatrix_x4_trans(right, fragment<D>(tile, step * 16, n / 2));
            mma_bf16(d[n], left, right[0], right[1]);
            mma_bf16(d[n + 1], left, right[2], right[3]);
        }
    }
}

// Rounds 16 rows of sums, times one factor for the upper and one for the lower eight, and writes them to `to` by way of a
// tile that this warp alone uses. `rows` of them exist.
template <int D>
DEVICE void store_rows(bf16* to, int stride, bf16* tile, int row, const float (&d)[D / 8][4], float upper, float lower, int rows, int size) {
    const int lane = threadIdx.x % WARP, r = lane / 4, pair = lane % 4 * 2;
    __syncwarp();  // Other lanes may still read the tile.
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        *reinterpret_cast<uint32_t*>(chunk_at<D>(tile, row + r, n) + pair) = pack_bf16(d[n][0] * upper, d[n][1] * upper);
        *reinterpret_cast<uint32_t*>(chunk_at<D>(tile, row + r + 8, n) + pair) = pack_bf16(d[n][2] * lower, d[n][3] * lower);
    }
    __syncwarp();
    for (int i = lane; i < 16 * (D / 8); i += WARP) {
        const int down = i / (D / 8), chunk = i % (D / 8);
        if (down < rows && chunk * 8 < size)
            *reinterpret_cast<uint4*>(to + int64_t(down) * stride + chunk * 8) =
                *reinterpret_cast<const uint4*>(chunk_at<D>(tile, row + down, chunk));
    }
}

// The largest and the sum of what the four lanes hold that share a row of sums.
DEVICE float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(FULL, v, 1));
    return fmaxf(v, __shfl_xor_sync(FULL, v, 2));
}
DEVICE float row_sum(float v) {
    v += __shfl_xor_sync(FULL, v, 1);
    return v + __shfl_xor_sync(FULL, v, 2);
}

// ---------------------------------------------------------------- work

// One entry of the list that `attention_plan` writes: some positions of one sequence.
struct Work {
    int begin;    // the sequence's first row
    int length;   // of the sequence
    int queries;  // first position of the entry's block of queries
    // First position of its block of keys, which as many blocks of queries see as the queries see blocks of keys. Where keys are
    // listed: the first of the sequence's places in the list.
    int keys;
};
// Whether there is such an entry; the list has room for more than there may be.
DEVICE bool work_at(Work& work, const int* plan, int entry) {
    plan += int64_t(entry) * 4;
    work = {plan[0], plan[1], plan[2], plan[3]};
    return work.length > 0;
}
