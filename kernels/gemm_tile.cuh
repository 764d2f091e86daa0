// One tile of a product of bf16 matrices with mma.sync: what gemm_nt.cu, gemm_nn.cu and gemm_tn.cu share.
//
//   y[i, j] = (y[i, j] +) sum_l left(i, l) right(j, l) (+ bias[j]) (+ residual[i, j])
//
// i and j are the free indices, l the summed one. Each operand is stored with either its summed or its free index contiguous
// (`Along`). A block computes BM x BN outputs. The summed index goes through shared memory DEPTH at a time, in a ring of STAGES
// that cp.async fills; warps hold BM / WARPS_M x BN / WARPS_N outputs in registers and read their fragments one step of 16
// ahead of the products, across stages too, so that one barrier a stage is all the waiting there is.
//
// Numerics. Every output is one chain of m16n8k16 products over l in ascending order, in float, starting from zero or from what is
// there, and then over zeros up to the next multiple of DEPTH; then + bias, + residual; then one rounding. All tile sizes do the
// same, so bits depend neither on the tile nor on the number of rows.
//
// Shared memory: rows of 16-byte chunks, the chunk's number xor the row's number modulo 8, so that neither the eight rows of an
// ldmatrix nor the eight chunks that a quarter of a warp writes meet in a bank.
//
// Cost: 2 I J L flops; (I L + J L + I J) elements from memory if the level-2 cache keeps what a band of tiles shares. By ptxas and shared
// memory, on sm_80 / sm_90a (nothing here is measured yet):
//
//   tile      threads  registers  shared   blocks per multiprocessor   expected limiter
//   16 x 32        64   56..63       48 KiB   3 / 4                     memory: each block streams 32 rows of weights, 28 KiB in flight
//   64 x 64       128  104..112      64 KiB   2 / 3                     level-2 cache
//   128 x 128     128  230..238      96 KiB   1 / 2                     tensor cores and level-2 cache
//   128 x 256     256  230..234     144 KiB   1 / 1                     tensor cores
//
// A warp with 64 x 64 outputs reads 4 KiB of shared memory for 32 products, about 80 of the 128 bytes a cycle that there are when
// mma.sync runs at the 62% of wgmma's speed that it reaches on Hopper; its loop is 128 HMMA with 32 LDSM and 12 LDGSTS between them.
//
// Operands of any alignment: whole chunks where rows are aligned to 16 bytes, else pairs, else single elements. Oracle: src/ops/gemm.rs.
#pragma once
#include "gemm_plan.cuh"
#include "ptx.cuh"

constexpr int DEPTH = 64;  // summed indices of a stage
constexpr int CHUNK = 8;   // bf16 elements of 16 bytes

template <int BM_, int BN_, int WARPS_M_, int WARPS_N_, int STAGES_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int THREADS = WARP * WARPS_M * WARPS_N;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;  // outputs of a warp
    static constexpr int STAGE = (BM + BN) * DEPTH;             // elements
    static constexpr int SUMS = BN + 8;                         // floats from row to row of the sums in shared memory
    static_assert(WM % 16 == 0 && WN % 16 == 0);
    static_assert(BM * SUMS * 4 <= STAGES * STAGE * 2, "the sums take the place of the stages");
};

// How much of a row can be copied at a time: 8, 2 or 1 elements.
DEVICE int copy_unit(const bf16* p, int stride) {
    if (aligned16(p, stride)) return CHUNK;
    return (reinterpret_cast<uint64_t>(p) & 3) == 0 && stride % 2 == 0 ? 2 : 1;
}

// Copies the first `count` elements of a chunk and makes the others zero.
DEVICE void copy_chunk(bf16* to, const bf16* from, int count, int unit) {
    if (unit == CHUNK && (count >= CHUNK || count <= 0)) {
        cp_async16(to, from, count > 0);
        return;
    }
#pragma unroll
    for (int j = 0; j < CHUNK; j += 2) {
        if (unit > 1 && j + 1 < count) {
            cp_async4(to + j, from + j, true);
        } else {
            to[j] = j < count ? from[j] : put<bf16>(0.f);
            to[j + 1] = j + 1 < count ? from[j + 1] : put<bf16>(0.f);
        }
    }
}

// One operand on its way to shared memory: FREE free indices, of which `free_left` exist.
template <Along ALONG, int FREE, int THREADS> struct Loader {
    static constexpr int WIDTH = ALONG == Along::summed ? DEPTH : FREE;  // contiguous elements of a stage
    static constexpr int ROWS = ALONG == Along::summed ? FREE : DEPTH;
    static constexpr int STEP = THREADS / (WIDTH / CHUNK);  // rows between two chunks of a thread
    static constexpr int CHUNKS = ROWS / STEP;              // chunks of a thread
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0);

    const bf16* from;  // this thread's first chunk of the next stage
    int64_t advance;
    int stride, row, column, free_left, unit;
    int to;            // where that chunk goes within a stage
    bool whole;        // all chunks lie completely inside or outside, aligned

    __device__ __forceinline__ Loader(const bf16* start, int stride, int first, int free, int depth) : stride(stride) {
        const int chunk = threadIdx.x % (WIDTH / CHUNK);
        row = threadIdx.x / (WIDTH / CHUNK), column = chunk * CHUNK;
        to = row * WIDTH + (chunk ^ (row & 7)) * CHUNK;
        free_left = free - first;
        unit = copy_unit(start, stride);
        whole = unit == CHUNK && (ALONG == Along::summed ? depth : free) % CHUNK == 0;
        from = start + (ALONG == Along::summed ? (first + row) * int64_t(stride) + column : row * int64_t(stride) + first + column);
        advance = ALONG == Along::summed ? DEPTH : DEPTH * int64_t(stride);
    }
    // Starts copying the next stage, of which `depth_left` summed indices exist.
    __device__ __forceinline__ void fill(bf16* stage, int depth_left) {
        const int rows = (ALONG == Along::summed ? free_left : depth_left) - row;
        const int columns = (ALONG == Along::summed ? depth_left : free_left) - column;
        if (whole) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++)
                cp_async16(stage + to + i * STEP * WIDTH, from + int64_t(i * STEP) * stride, i * STEP < rows && columns > 0);
        } else {
#pragma unroll 1
            for (int i = 0; i < CHUNKS; i++)
                copy_chunk(stage + to + i * STEP * WIDTH, from + int64_t(i * STEP) * stride, i * STEP < rows ? columns : 0, unit);
        }
        from += advance;
    }
};

// A step's left fragment: 16 free indices from `first` on, summed indices 16 * step on.
template <Along ALONG, int FREE> DEVICE void left_fragment(uint32_t (&r)[4], const bf16* stage, int first, int step) {
    const int lane = threadIdx.x % WARP;
    if constexpr (ALONG == Along::summed) {
        const int row = first + lane % 16, chunk = 2 * step + lane / 16;
        ldmatrix_x4(r, stage + row * DEPTH + (chunk ^ (row & 7)) * CHUNK);
    } else {
        const int row = 16 * step + lane % 8 + lane / 16 * 8, chunk = first / CHUNK + lane / 8 % 2;
        ldmatrix_x4_trans(r, stage + row * FREE + (chunk ^ (row & 7)) * CHUNK);
    }
}
// A step's right fragments for two neighbouring groups of 8 free indices: b0 and b1 of the first, then of the second.
template <Along ALONG, int FREE> DEVICE void right_fragment(uint32_t (&r)[4], const bf16* stage, int first, int step) {
    const int lane = threadIdx.x % WARP;
    if constexpr (ALONG == Along::summed) {
        const int row = first + lane % 8 + lane / 16 * 8, chunk = 2 * step + lane / 8 % 2;
        ldmatrix_x4(r, stage + row * DEPTH + (chunk ^ (row & 7)) * CHUNK);
    } else {
        const int row = 16 * step + lane % 16, chunk = first / CHUNK + lane / 16;
        ldmatrix_x4_trans(r, stage + row * FREE + (chunk ^ (row & 7)) * CHUNK);
    }
}

// Writes eight neighbouring outputs: `count` of them exist.
template <class O>
DEVICE void finish(O* y, float (&sum)[8], const bf16* bias, const bf16* residual, int count, bool vector, bool operands_vector) {
    if (bias) {
        float b[8];
        load_part<bf16>(b, bias, count, operands_vector);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += b[i];
    }
    if (residual) {
        float r[8];
        load_part<bf16>(r, residual, count, operands_vector);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += r[i];
    }
    constexpr int N = Vec<O>::N;
#pragma unroll
    for (int c = 0; c < 8; c += N) {
        float part[N];
#pragma unroll
        for (int i = 0; i < N; i++) part[i] = sum[c + i];
        store_part<O>(y + c, part, count - c, vector);
    }
}

template <class T, Along LEFT, Along RIGHT, class O>
DEVICE void gemm_tile(O* y, const bf16* left, const bf16* right, const bf16* bias, const bf16* residual, int rows, int cols, int depth,
                      int y_stride, int left_stride, int right_stride, int residual_stride, int add) {
    constexpr int BM = T::BM, BN = T::BN, STAGES = T::STAGES, MS = T::WM / 16, NS = T::WN / 16;
    SHARED_DYNAMIC(bf16, ring, 128);
    const Corner at = corner<BM, BN>(blockIdx.x, rows, cols);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / T::WARPS_N * T::WM, warp_col = warp % T::WARPS_N * T::WN;
    const int stages = (depth + DEPTH - 1) / DEPTH;

    Loader<LEFT, BM, T::THREADS> from_left(left, left_stride, at.row, rows, depth);
    Loader<RIGHT, BN, T::THREADS> from_right(right, right_stride, at.col, cols, depth);
    auto fill = [&](int stage) {
        if (stage < stages) {
            bf16* to = ring + stage % STAGES * T::STAGE;
            from_left.fill(to, depth - stage * DEPTH);
            from_right.fill(to + BM * DEPTH, depth - stage * DEPTH);
        }
        cp_async_commit();
    };
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; stage++) fill(stage);

    // Lane l has of each 16x8 group of sums rows l / 4 and 8 below, columns 2 (l % 4) and the next.
    float sums[MS][2 * NS][4];
#pragma unroll
    for (int i = 0; i < MS; i++)
#pragma unroll
        for (int j = 0; j < 2 * NS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = at.row + warp_row + 16 * i + lane / 4 + e / 2 * 8, col = at.col + warp_col + 8 * j + lane % 4 * 2 + e % 2;
                sums[i][j][e] = add ? old_value(y, row, col, rows, cols, y_stride) : 0.f;
            }

    uint32_t a[2][MS][4], b[2][NS][4];
    auto fragments = [&](int stage, int step, int set) {
        const bf16* at_stage = ring + stage % STAGES * T::STAGE;
#pragma unroll
        for (int i = 0; i < MS; i++) left_fragment<LEFT, BM>(a[set][i], at_stage, warp_row + 16 * i, step);
#pragma unroll
        for (int j = 0; j < NS; j++) right_fragment<RIGHT, BN>(b[set][j], at_stage + BM * DEPTH, warp_col + 16 * j, step);
    };
    constexpr int STEPS = DEPTH / 16;
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (stages > 0) fragments(0, 0, 0);
#pragma unroll 1
    for (int stage = 0; stage < stages; stage++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (step + 1 < STEPS) {
                fragments(stage, step + 1, (step + 1) & 1);
            } else {
                // Everybody has read this stage, and the next one has come.
                cp_async_wait<STAGES - 2>();
                __syncthreads();
                if (stage + 1 < stages) fragments(stage + 1, 0, 0);
            }
            // The slot of the stage before this one is free since the last barrier.
            if (step == 0) fill(stage + STAGES - 1);
#pragma unroll
            for (int i = 0; i < MS; i++)
#pragma unroll
                for (int j = 0; j < 2 * NS; j++)
                    mma_bf16(sums[i][j], a[step & 1][i], b[step & 1][j / 2][j % 2 * 2], b[step & 1][j / 2][j % 2 * 2 + 1]);
        }
    }

    // The sums go through shared memory, so that outputs are written, and residuals read, 16 bytes at a time. After the last
    // stage's barrier nobody reads the ring and no copy is under way.
    float* whole = reinterpret_cast<float*>(ring);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MS; i++)
#pragma unroll
        for (int j = 0; j < 2 * NS; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<float2*>(whole + (warp_row + 16 * i + 8 * half + lane / 4) * T::SUMS + warp_col + 8 * j + lane % 4 * 2) =
                    make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
    __syncthreads();
    const bool vector = aligned16(y, y_stride);
    const bool operands_vector = (!bias || aligned16(bias, 0)) && (!residual || aligned16(residual, residual_stride));
#pragma unroll 2
    for (int item = threadIdx.x; item < BM * BN / 8; item += T::THREADS) {
        const int r = item / (BN / 8), c = item % (BN / 8) * 8;
        const int64_t row = at.row + r;
        const int col = at.col + c;
        if (row >= rows || col >= cols) continue;
        float sum[8];
        const float4 low = *reinterpret_cast<const float4*>(whole + r * T::SUMS + c);
        const float4 high = *reinterpret_cast<const float4*>(whole + r * T::SUMS + c + 4);
        sum[0] = low.x, sum[1] = low.y, sum[2] = low.z, sum[3] = low.w;
        sum[4] = high.x, sum[5] = high.y, sum[6] = high.z, sum[7] = high.w;
        finish(y + row * y_stride + col, sum, bias ? bias + col : nullptr, residual ? residual + row * residual_stride + col : nullptr,
               cols - col, vector, operands_vector);
    }
}
