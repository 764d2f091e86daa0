// Root-mean-square normalisation of rows.
//
//   forward    rstd_t = 1 / sqrt(mean_d x[t, d]^2 + eps)        y[t, d] = x[t, d] * rstd_t * w[d]
//   backward   dx[t, d] += rstd_t * (dy w - x * rstd_t^2 * mean_d(dy w x))        dw[d] += sum_t dy x rstd_t
//
// T rows of D columns; rows may be strided. Sums in float; y and dx are rounded once. A row is the work of `warps` warps (1, 2, 4 or 8;
// the host derives it from D), which keep it in registers as far as it fits, so that each byte is read once; a block has as many rows
// under way as it has such teams. The backward gives a stretch of rows to a team: dx is done row by row, and the team's
// part of dw goes to a row of `partials`, which `partials_add` sums in order. The stretches depend on T and D alone, so bits do not depend on
// the GPU. Sums of a row: a thread's own elements ascending, then a tree over a warp, then the warps ascending.
//
// Bytes per element: forward twice the storage type's, backward four times (dy, x and dx read, dx written). Limiter: memory. For bf16
// and D = 4096 on sm_90a: forward 64 registers, 50% occupancy, 64 KB under way in a
// multiprocessor; backward 75, 37%, 74 KB. Oracle: src/ops/rmsnorm.rs.
#include "packed.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256;
constexpr int FWD_KEPT = 4;        // vectors of a row that a thread keeps in the forward
constexpr int BWD_ELEMENTS = 16;   // elements of dw that a thread keeps in the backward

// The sum over a row's threads, known to all of them. `scratch` holds one float a warp of the block; it may be used again after the
// caller's next barrier. Every thread of the block must call it.
DEVICE float row_sum(float v, int warps, float* scratch) {
    v = warp_sum(v);
    if (warps == 1) return v;
    const int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0) scratch[warp] = v;
    __syncthreads();
    float sum = 0.f;
    for (int i = 0; i < warps; i++) sum += scratch[warp / warps * warps + i];
    return sum;
}

template <bool WHOLE, class T>
DEVICE void rmsnorm_fwd(T* y, float* rstd, const T* x, const T* w, int d, int warps, float eps, float* scratch) {
    constexpr int N = Vec<T>::N;
    const int lanes = warps * WARP, first = threadIdx.x % lanes * N, step = lanes * N;
    Packed<T> kept[FWD_KEPT];
    float square = 0.f;
#pragma unroll
    for (int k = 0; k < FWD_KEPT; k++) kept[k] = load_packed<WHOLE>(x + first + k * step, d - first - k * step);
#pragma unroll
    for (int k = 0; k < FWD_KEPT; k++)
#pragma unroll
        for (int i = 0; i < N; i++) square += kept[k][i] * kept[k][i];
    for (int c = first + FWD_KEPT * step; c < d; c += step) {
        const Packed<T> v = load_packed<WHOLE>(x + c, d - c);
#pragma unroll
        for (int i = 0; i < N; i++) square += v[i] * v[i];
    }
    const float r = 1.f / sqrtf(row_sum(square, warps, scratch) / d + eps);
    if (first == 0 && d > 0) *rstd = r;

    auto scale = [&](const Packed<T>& v, const Packed<T>& g, int c) {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = v[i] * r * g[i];
        store_packed<WHOLE>(y + c, Packed<T>::of(out), d - c);
    };
    Packed<T> g[FWD_KEPT];  // all of them before the first store, which the compiler does not move them across
#pragma unroll
    for (int k = 0; k < FWD_KEPT; k++) g[k] = load_packed<WHOLE>(w + first + k * step, d - first - k * step);
#pragma unroll
    for (int k = 0; k < FWD_KEPT; k++) scale(kept[k], g[k], first + k * step);
    for (int c = first + FWD_KEPT * step; c < d; c += step) scale(load_packed<WHOLE>(x + c, d - c), load_packed<WHOLE>(w + c, d - c), c);
}

template <class T> DEVICE void choose_fwd(Rows<T> y, float* rstd, Rows<const T> x, const T* w, int t, int d, int warps, float eps) {
    SHARED(float, scratch, [THREADS / WARP]);
    const int64_t row = int64_t(blockIdx.x) * (THREADS / WARP / warps) + threadIdx.x / (warps * WARP);
    const int width = row < t ? d : 0;  // a row beyond the last takes part in the barriers alone
    if (y.whole(d) && x.whole(d) && aligned16(w, 0)) rmsnorm_fwd<true>(y[row], rstd + row, x[row], w, width, warps, eps, scratch);
    else rmsnorm_fwd<false>(y[row], rstd + row, x[row], w, width, warps, eps, scratch);
}

// One team's stretch of rows, which are whole vectors and fit its registers. `partials` is the team's own row.
template <int BLOCK, class T>
DEVICE void rmsnorm_bwd_kept(Rows<T> dx, float* partials, Rows<const T> dy, Rows<const T> x, const float* rstd, const T* w, int t, int d,
                             int warps, int64_t begin, int stretch, float (&scratch)[2][BLOCK / WARP]) {
    constexpr int N = Vec<T>::N, KEPT = BWD_ELEMENTS / N;
    const int first = threadIdx.x % (warps * WARP) * N, step = warps * WARP * N;
    float sums[KEPT][N] = {};
    for (int i = 0; i < stretch; i++) {
        const int64_t row = begin + i;
        const int width = row < t ? d : 0;
        Packed<T> g[KEPT], v[KEPT], out[KEPT];
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int c = first + k * step;
            g[k] = load_packed<true>(dy[row] + c, width - c), v[k] = load_packed<true>(x[row] + c, width - c);
            out[k] = load_packed<true>(dx[row] + c, width - c);
        }
        const float r = row < t ? rstd[row] : 0.f;
        float dot = 0.f;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const Packed<T> s = load_packed<true>(w + first + k * step, width - first - k * step);
#pragma unroll
            for (int i = 0; i < N; i++) dot += g[k][i] * s[i] * v[k][i];
        }
        // The two halves take turns, so that a row's sum is not overwritten while some thread still reads the one before.
        const float mean = row_sum(dot, warps, scratch[i & 1]) * r * r / d;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int c = first + k * step;
            const Packed<T> s = load_packed<true>(w + c, width - c);
            float to[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                to[i] = out[k][i] + r * (g[k][i] * s[i] - v[k][i] * mean);
                sums[k][i] += g[k][i] * v[k][i] * r;
            }
            store_packed<true>(dx[row] + c, Packed<T>::of(to), width - c);
        }
    }
    if (begin >= t) return;
#pragma unroll
    for (int k = 0; k < KEPT; k++) store_floats<true>(partials + first + k * step, sums[k], d - first - k * step);
}

// The same for any rows: two passes over each, and sums in the team's row of partials.
template <int BLOCK, class T>
DEVICE void rmsnorm_bwd_any(Rows<T> dx, float* partials, Rows<const T> dy, Rows<const T> x, const float* rstd, const T* w, int t, int d,
                            int warps, int64_t begin, int stretch, float (&scratch)[2][BLOCK / WARP]) {
    constexpr int N = Vec<T>::N;
    const int first = threadIdx.x % (warps * WARP) * N, step = warps * WARP * N;
    const bool vector = aligned16(dx.start, dx.stride) && aligned16(dy.start, dy.stride) && aligned16(x.start, x.stride) && aligned16(w, 0);
    for (int i = 0; i < stretch; i++) {
        const int64_t row = begin + i;
        const int width = row < t ? d : 0;
        float dot = 0.f, g[N], v[N], s[N], out[N];
        for (int c = first; c < width; c += step) {
            load_part<T>(g, dy[row] + c, d - c, vector);
            load_part<T>(v, x[row] + c, d - c, vector);
            load_part<T>(s, w + c, d - c, vector);
#pragma unroll
            for (int i = 0; i < N; i++) dot += g[i] * s[i] * v[i];
        }
        const float r = row < t ? rstd[row] : 0.f, mean = row_sum(dot, warps, scratch[i & 1]) * r * r / d;
        for (int c = first; c < width; c += step) {
            load_part<T>(g, dy[row] + c, d - c, vector);
            load_part<T>(v, x[row] + c, d - c, vector);
            load_part<T>(s, w + c, d - c, vector);
            load_part<T>(out, dx[row] + c, d - c, vector);
#pragma unroll
            for (int j = 0; j < N; j++) {
                out[j] += r * (g[j] * s[j] - v[j] * mean);
                if (c + j < d) partials[c + j] = (i > 0 ? partials[c + j] : 0.f) + g[j] * v[j] * r;
            }
            store_part<T>(dx[row] + c, out, d - c, vector);
        }
    }
}

template <int BLOCK, class T>
DEVICE void choose_bwd(Rows<T> dx, float* partials, Rows<const T> dy, Rows<const T> x, const float* rstd, const T* w, int t, int d,
                       int warps, int stretch) {
    const int64_t team = int64_t(blockIdx.x) * (BLOCK / WARP / warps) + threadIdx.x / (warps * WARP);
    partials += team * d;
    SHARED(float, scratch, [2][BLOCK / WARP]);
    if (dx.whole(d) && dy.whole(d) && x.whole(d) && aligned16(w, 0) && d <= warps * WARP * BWD_ELEMENTS)
        rmsnorm_bwd_kept<BLOCK>(dx, partials, dy, x, rstd, w, t, d, warps, team * stretch, stretch, scratch);
    else rmsnorm_bwd_any<BLOCK>(dx, partials, dy, x, rstd, w, t, d, warps, team * stretch, stretch, scratch);
}

KERNEL(rmsnorm_fwd_f32, (256), float* y, float* rstd, const float* x, const float* w, int t, int d, int y_stride, int x_stride, int warps,
       float eps) {
    choose_fwd<float>({y, y_stride}, rstd, {x, x_stride}, w, t, d, warps, eps);
}
KERNEL(rmsnorm_fwd_bf16, (256), bf16* y, float* rstd, const bf16* x, const bf16* w, int t, int d, int y_stride, int x_stride, int warps,
       float eps) {
    choose_fwd<bf16>({y, y_stride}, rstd, {x, x_stride}, w, t, d, warps, eps);
}
KERNEL(rmsnorm_bwd_f32, (256), float* dx, float* partials, const float* dy, const float* x, const float* rstd, const float* w, int t,
       int d, int dx_stride, int dy_stride, int x_stride, int warps, int stretch) {
    choose_bwd<256, float>({dx, dx_stride}, partials, {dy, dy_stride}, {x, x_stride}, rstd, w, t, d, warps, stretch);
}
KERNEL(rmsnorm_bwd_bf16, (256), bf16* dx, float* partials, const bf16* dy, const bf16* x, const float* rstd, const bf16* w, int t, int d,
       int dx_stride, int dy_stride, int x_stride, int warps, int stretch) {
    choose_bwd<256, bf16>({dx, dx_stride}, partials, {dy, dy_stride}, {x, x_stride}, rstd, w, t, d, warps, stretch);
}
// For rows that 256 threads cannot keep.
KERNEL(rmsnorm_bwd_wide_f32, (512, 1), float* dx, float* partials, const float* dy, const float* x, const float* rstd, const float* w, int t,
       int d, int dx_stride, int dy_stride, int x_stride, int warps, int stretch) {
    choose_bwd<512, float>({dx, dx_stride}, partials, {dy, dy_stride}, {x, x_stride}, rstd, w, t, d, warps, stretch);
}
KERNEL(rmsnorm_bwd_wide_bf16, (512, 1), bf16* dx, float* partials, const bf16* dy, const bf16* x, const float* rstd, const bf16* w, int t,
       int d, int dx_stride, int dy_stride, int x_stride, int warps, int stretch) {
    choose_bwd<512, bf16>({dx, dx_stride}, partials, {dy, dy_stride}, {x, x_stride}, rstd, w, t, d, warps, stretch);
}
