// A product of matrices as Ampere does it: tiles arrive by cp.async, double-buffered, and are multiplied by mma.sync. Legal.
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"

constexpr int TILE = 64, DEPTH = 32;

// Rows of DEPTH elements, four chunks of 16 bytes each; chunks are permuted so that ldmatrix meets no bank twice.
DEVICE bf16* place(bf16* tile, int row, int chunk) { return tile + row * DEPTH + ((chunk ^ (row >> 1 & 3)) * 8); }
DEVICE void load_tile(bf16* tile, const bf16* from, int row0, int rows, int k0, int k_size) {
    for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
        const int row = i / 4, chunk = i % 4, k = k0 + chunk * 8;
        const bool valid = row0 + row < rows && k < k_size;
        cp_async16(place(tile, row, chunk), from + (valid ? int64_t(row0 + row) * k_size + k : 0), valid);
    }
}

// c[m, n] = sum over k of a[m, k] b[n, k]; k a multiple of 8. Blocks of 64 x 64, four warps of 16 rows each.
KERNEL(legal_multiply_mma, (128), float* c, const bf16* a, const bf16* b, int m_size, int n_size, int k_size) {
    SHARED(bf16, tile_a, [2][TILE * DEPTH]);
    SHARED(bf16, tile_b, [2][TILE * DEPTH]);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    float acc[TILE / 8][4] = {};
    load_tile(tile_a[0], a, m0, m_size, 0, k_size);
    load_tile(tile_b[0], b, n0, n_size, 0, k_size);
    cp_async_commit();
    const int steps = (k_size + DEPTH - 1) / DEPTH;
    for (int i = 0; i < steps; i++) {
        if (i + 1 < steps) {
            load_tile(tile_a[(i + 1) & 1], a, m0, m_size, (i + 1) * DEPTH, k_size);
            load_tile(tile_b[(i + 1) & 1], b, n0, n_size, (i + 1) * DEPTH, k_size);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            uint32_t fragment[4];
            ldmatrix_x4(fragment, place(tile_a[i & 1], warp * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int n = 0; n < TILE / 8; n += 2) {
                uint32_t pair[4];
                ldmatrix_x4(pair, place(tile_b[i & 1], n * 8 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
                mma_bf16(acc[n], fragment, pair[0], pair[1]);
                mma_bf16(acc[n + 1], fragment, pair[2], pair[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = m0 + warp * 16 + lane / 4 + j / 2 * 8, column = n0 + n * 8 + 2 * (lane % 4) + j % 2;
            if (row < m_size && column < n_size) c[int64_t(row) * n_size + column] = acc[n][j];
        }
}
