// Root-mean-square normalisation of rows.
//
//   forward    rstd_t = 1 / sqrt(mean_d x[t, d]^2 + eps)        y[t, d] = x[t, d] * rstd_t * w[d]
//   backward   dx[t, d] += rstd_t * (dy w - x * rstd_t^2 * mean_d(dy w x))        dw[d] += sum_t dy x rstd_t
//
// T rows of D columns; rows may be strided. Sums in float; y and dx are rounded once. The forward gives a row to a block, which
// keeps the row in registers as far as it fits. The backward gives a stretch of rows to a block: dx is done row by row, and the
// block's part of dw goes to a row of `partials`, which `partials_add` sums in order. The number of stretches is fixed by the
// host, so bits do not depend on the GPU. Oracle: src/ops/rmsnorm.rs.
#include "reduce.cuh"
#include "types.cuh"

constexpr int KEPT = 4;  // vectors of a row that a thread keeps in registers

template <int THREADS, class T>
DEVICE void rmsnorm_fwd(T* y, float* rstd, const T* x, const T* w, int d, int y_stride, int x_stride, float eps) {
    constexpr int N = Vec<T>::N;
    SHARED(float, scratch, [THREADS / WARP]);
    const int64_t row = blockIdx.x;
    x += row * x_stride, y += row * y_stride;
    const bool vector = aligned16(x, x_stride) && aligned16(y, y_stride) && aligned16(w, 0);
    const int first = threadIdx.x * N;

    float kept[KEPT][N];
    float square = 0.f;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int c = first + k * THREADS * N;
        if (c < d) {
            load_part<T>(kept[k], x + c, d - c, vector);
#pragma unroll
            for (int i = 0; i < N; i++) square += kept[k][i] * kept[k][i];
        }
    }
    for (int c = first + KEPT * THREADS * N; c < d; c += THREADS * N) {
        float v[N];
        load_part<T>(v, x + c, d - c, vector);
#pragma unroll
        for (int i = 0; i < N; i++) square += v[i] * v[i];
    }
    square = block_sum<THREADS>(square, scratch);
    const float r = 1.f / sqrtf(square / d + eps);
    if (threadIdx.x == 0) rstd[row] = r;

    auto scale = [&](float (&v)[N], int c) {
        float g[N];
        load_part<T>(g, w + c, d - c, vector);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = v[i] * r * g[i];
        store_part<T>(y + c, v, d - c, vector);
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int c = first + k * THREADS * N;
        if (c < d) scale(kept[k], c);
    }
    for (int c = first + KEPT * THREADS * N; c < d; c += THREADS * N) {
        float v[N];
        load_part<T>(v, x + c, d - c, vector);
        scale(v, c);
    }
}

template <int THREADS, class T>
DEVICE void rmsnorm_bwd(T* dx, float* partials, const T* dy, const T* x, const float* rstd, const T* w, int t, int d, int dx_stride,
                        int dy_stride, int x_stride, int stretch) {
    constexpr int N = Vec<T>::N;
    SHARED(float, scratch, [2][THREADS / WARP]);
    const bool vector = aligned16(dx, dx_stride) && aligned16(dy, dy_stride) && aligned16(x, x_stride) && aligned16(w, 0);
    const int begin = blockIdx.x * stretch, end = min(t, begin + stretch);
    partials += int64_t(blockIdx.x) * d;
    float dw[KEPT][N] = {};
    for (int64_t row = begin; row < end; row++) {
        const float r = rstd[row];
        const T *dy_row = dy + row * dy_stride, *x_row = x + row * x_stride;
        float dot = 0.f;
        for (int c = threadIdx.x * N; c < d; c += THREADS * N) {
            float g[N], v[N], s[N];
            load_part<T>(g, dy_row + c, d - c, vector);
            load_part<T>(v, x_row + c, d - c, vector);
            load_part<T>(s, w + c, d - c, vector);
#pragma unroll
            for (int i = 0; i < N; i++) dot += g[i] * s[i] * v[i];
        }
        // The two halves take turns, so that a row's sum is not overwritten while some thread still reads the one before.
        dot = block_sum<THREADS>(dot, scratch[row & 1]);
        const float mean = dot * r * r / d;
        auto finish = [&](int c, float (&sum)[N]) {
            float g[N], v[N], s[N], out[N];
            load_part<T>(g, dy_row + c, d - c, vector);
            load_part<T>(v, x_row + c, d - c, vector);
            load_part<T>(s, w + c, d - c, vector);
            load_part<T>(out, dx + row * dx_stride + c, d - c, vector);
#pragma unroll
            for (int i = 0; i < N; i++) {
                out[i] += r * (g[i] * s[i] - v[i] * mean);
                sum[i] += g[i] * v[i] * r;
            }
            store_part<T>(dx + row * dx_stride + c, out, d - c, vector);
        };
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int c = (threadIdx.x + k * THREADS) * N;
            if (c < d) finish(c, dw[k]);
        }
        for (int c = (threadIdx.x + KEPT * THREADS) * N; c < d; c += THREADS * N) {
            // Wider rows keep the rest of their sums in the block's own partials.
            float sum[N] = {};
            if (row > begin)
                for (int i = 0; i < N && c + i < d; i++) sum[i] = partials[c + i];
            finish(c, sum);
            for (int i = 0; i < N && c + i < d; i++) partials[c + i] = sum[i];
        }
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int c = (threadIdx.x + k * THREADS) * N;
        for (int i = 0; i < N && c + i < d; i++) partials[c + i] = dw[k][i];
    }
}

KERNEL(rmsnorm_fwd_f32, (128), float* y, float* rstd, const float* x, const float* w, int d, int y_stride, int x_stride, float eps) {
    rmsnorm_fwd<128>(y, rstd, x, w, d, y_stride, x_stride, eps);
}
KERNEL(rmsnorm_fwd_bf16, (128), bf16* y, float* rstd, const bf16* x, const bf16* w, int d, int y_stride, int x_stride, float eps) {
    rmsnorm_fwd<128>(y, rstd, x, w, d, y_stride, x_stride, eps);
}
KERNEL(rmsnorm_bwd_f32, (256), float* dx, float* partials, const float* dy, const float* x, const float* rstd, const float* w, int t,
       int d, int dx_stride, int dy_stride, int x_stride, int stretch) {
    rmsnorm_bwd<256>(dx, partials, dy, x, rstd, w, t, d, dx_stride, dy_stride, x_stride, stretch);
}
KERNEL(rmsnorm_bwd_bf16, (256), bf16* dx, float* partials, const bf16* dy, const bf16* x, const float* rstd, const bf16* w, int t, int d,
       int dx_stride, int dy_stride, int x_stride, int stretch) {
    rmsnorm_bwd<256>(dx, partials, dy, x, rstd, w, t, d, dx_stride, dy_stride, x_stride, stretch);
}
