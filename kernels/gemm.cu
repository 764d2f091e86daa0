// Products of f32 matrices, and the gradient of a bias.
//
//   y[i, j] = (y[i, j] +) sum_l left(i, l) right(j, l) (+ bias[j]) (+ residual[i, j])
//   bias    partials[p, n] = sum_m dy[m, n]        over the rows m of stretch p
//
// i and j are the free indices, l the summed one; gemm_nt, gemm_nn and gemm_tn differ in which of its indices an operand stores
// contiguously, as in gemm_tile.cuh.
//
// Every output is one chain of fused multiply-adds over l in ascending order, starting from zero or from what is there; then + bias, then
// + residual, then one rounding: the bits of the CPU, whatever the shape. Plain FMAs, no tf32.
//
// A block computes 64 x 64 outputs with 128 threads, 8 x 4 each. Stages of 16 summed indices lie in shared memory with
// their free index contiguous: cp.async moves single floats, which transposes on the way and takes any alignment.
// Per summed index a thread reads 12 floats for 32 FMAs. Cost: 2 I J L flops; (I L + J L + I J) floats from memory if the level-2 cache
// keeps what neighbouring blocks share. On sm_90a 66 to 79 registers and 26 KiB: 6 or 7 blocks to a multiprocessor. Limiter: the FMA
// pipes, then shared memory. Oracle: src/ops/gemm.rs.
#include "gemm_plan.cuh"
#include "ptx.cuh"

constexpr int SIDE = 64;        // outputs of a block, each way
constexpr int DEPTH = 16;       // summed indices of a stage
constexpr int STAGES = 3;
constexpr int ROW = SIDE + 4;   // floats from one summed index to the next: keeps 16-byte alignment, spreads the banks
constexpr int THREADS = 128;
constexpr int RUN = 4;          // neighbouring outputs of a thread

// Starts copying one operand's stage: 64 free indices from `first` on, 16 summed ones from `begin` on.
template <Along ALONG> DEVICE void fill(float* stage, const float* p, int stride, int first, int free, int begin, int depth) {
    constexpr int WIDTH = ALONG == Along::summed ? DEPTH : SIDE;
    const int across = threadIdx.x % WIDTH;  // along the row
#pragma unroll
    for (int i = 0; i < SIDE * DEPTH / THREADS; i++) {
        const int row = threadIdx.x / WIDTH + i * (THREADS / WIDTH);
        const int f = ALONG == Along::summed ? row : across, l = ALONG == Along::summed ? across : row;
        const int64_t at = ALONG == Along::summed ? int64_t(first + f) * stride + begin + l : int64_t(begin + l) * stride + first + f;
        cp_async4(stage + l * ROW + f, p + at, first + f < free && begin + l < depth);
    }
}

template <Along LEFT, Along RIGHT, class O>
DEVICE void gemm_f32(O* y, const float* left, const float* right, const float* bias, const float* residual, int rows, int cols, int depth,
                     int y_stride, int left_stride, int right_stride, int residual_stride, int add) {
    SHARED(float, ring, [STAGES][2][DEPTH * ROW]);
    const int row_tiles = (rows + SIDE - 1) / SIDE;
    const int first_row = blockIdx.x % row_tiles * SIDE, first_col = blockIdx.x / row_tiles * SIDE;
    const int stages = (depth + DEPTH - 1) / DEPTH;
    auto start = [&](int stage) {
        if (stage < stages) {
            fill<LEFT>(ring[stage % STAGES][0], left, left_stride, first_row, rows, stage * DEPTH, depth);
            fill<RIGHT>(ring[stage % STAGES][1], right, right_stride, first_col, cols, stage * DEPTH, depth);
        }
        cp_async_commit();
    };
    for (int stage = 0; stage < STAGES - 1; stage++) start(stage);

    // A thread's rows are two runs of four, 32 apart; its columns one run of four.
    const int row = threadIdx.x / 16 * RUN, col = threadIdx.x % 16 * RUN;
    float sum[2][RUN][RUN];
    auto place = [&](int h, int i) { return first_row + 32 * h + row + i; };
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < RUN; i++)
#pragma unroll
            for (int j = 0; j < RUN; j++)
                sum[h][i][j] = add ? old_value(y, place(h, i), first_col + col + j, rows, cols, y_stride) : 0.f;

    for (int stage = 0; stage < stages; stage++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        start(stage + STAGES - 1);  // into the slot that everybody has finished with
        const float *l = ring[stage % STAGES][0] + row, *r = ring[stage % STAGES][1] + col;
        auto step = [&](int i) {
            float a[2][RUN], b[RUN];
            Vec<float>::load(a[0], l + i * ROW);
            Vec<float>::load(a[1], l + i * ROW + 32);
            Vec<float>::load(b, r + i * ROW);
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int p = 0; p < RUN; p++)
#pragma unroll
                    for (int q = 0; q < RUN; q++) sum[h][p][q] = fmaf(a[h][p], b[q], sum[h][p][q]);
        };
        const int left_over = depth - stage * DEPTH;
        if (left_over >= DEPTH) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) step(i);
        } else {
            // No products of zeros beyond the end: they could turn -0 into +0.
#pragma unroll 1
            for (int i = 0; i < left_over; i++) step(i);
        }
    }

    const bool vector = aligned16(y, y_stride);
    const bool operands_vector = (!bias || aligned16(bias, 0)) && (!residual || aligned16(residual, residual_stride));
    const int count = min(cols - first_col - col, RUN);
    if (count <= 0) return;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            const int64_t r = place(h, i);
            if (r >= rows) continue;
            float (&out)[RUN] = sum[h][i];
            float more[RUN];
            if (bias) {
                load_part<float>(more, bias + first_col + col, count, operands_vector);
#pragma unroll
                for (int j = 0; j < RUN; j++) out[j] += more[j];
            }
            if (residual) {
                load_part<float>(more, residual + r * residual_stride + first_col + col, count, operands_vector);
#pragma unroll
                for (int j = 0; j < RUN; j++) out[j] += more[j];
            }
            O* to = y + r * y_stride + first_col + col;
            if constexpr (std::is_same_v<O, float>) {
                store_part<float>(to, out, count, vector);
            } else {
#pragma unroll
                for (int j = 0; j < RUN; j++)
                    if (j < count) to[j] = put<O>(out[j]);
            }
        }
}

template <class O>
DEVICE void gemm_nt(O* y, const float* x, const float* w, const float* bias, const float* residual, int m, int n, int k, int y_stride,
                    int x_stride, int w_stride, int residual_stride) {
    gemm_f32<Along::summed, Along::summed>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride, 0);
}
template <class O>
DEVICE void gemm_nn(O* dx, const float* dy, const float* w, int m, int n, int k, int dx_stride, int dy_stride, int w_stride, int add) {
    gemm_f32<Along::summed, Along::free>(dx, dy, w, nullptr, nullptr, m, k, n, dx_stride, dy_stride, w_stride, 0, add);
}
template <class O>
DEVICE void gemm_tn(O* dw, const float* dy, const float* x, int m, int n, int k, int dw_stride, int dy_stride, int x_stride, int add) {
    gemm_f32<Along::free, Along::free>(dw, dy, x, nullptr, nullptr, n, k, m, dw_stride, dy_stride, x_stride, 0, add);
}

KERNEL(gemm_nt_f32_f32, (128), float* y, const float* x, const float* w, NULLABLE const float* bias, NULLABLE const float* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_f32_bf16, (128), bf16* y, const float* x, const float* w, NULLABLE const float* bias, NULLABLE const float* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nn_f32_f32, (128), float* dx, const float* dy, const float* w, int m, int n, int k, int dx_stride, int dy_stride,
       int w_stride, int add) {
    gemm_nn(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_f32_bf16, (128), bf16* dx, const float* dy, const float* w, int m, int n, int k, int dx_stride, int dy_stride,
       int w_stride, int add) {
    gemm_nn(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_tn_f32_f32, (128), float* dw, const float* dy, const float* x, int m, int n, int k, int dw_stride, int dy_stride,
       int x_stride, int add) {
    gemm_tn(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_f32_bf16, (128), bf16* dw, const float* dy, const float* x, int m, int n, int k, int dw_stride, int dy_stride,
       int x_stride, int add) {
    gemm_tn(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}

// A thread sums 16 bytes of columns over its block's stretch of rows (blockIdx.y), in order.
template <class T> DEVICE void bias_bwd(float* partials, const T* dy, int m, int n, int dy_stride, int stretch) {
    constexpr int N = Vec<T>::N;
    const int col = (blockIdx.x * 128 + threadIdx.x) * N;
    if (col >= n) return;
    const bool vector = aligned16(dy, dy_stride);
    const int begin = blockIdx.y * stretch, end = min(m, begin + stretch);
    float sum[N] = {};
#pragma unroll 4
    for (int row = begin; row < end; row++) {
        float v[N];
        load_part<T>(v, dy + int64_t(row) * dy_stride + col, n - col, vector);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += v[i];
    }
    for (int i = 0; i < N && col + i < n; i++) partials[int64_t(blockIdx.y) * n + col + i] = sum[i];
}

KERNEL(bias_bwd_f32, (128), float* partials, const float* dy, int m, int n, int dy_stride, int stretch) {
    bias_bwd(partials, dy, m, n, dy_stride, stretch);
}
KERNEL(bias_bwd_bf16, (128), float* partials, const bf16* dy, int m, int n, int dy_stride, int stretch) {
    bias_bwd(partials, dy, m, n, dy_stride, stretch);
}
