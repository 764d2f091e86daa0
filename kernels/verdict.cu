// The two-row head: a verdict between two candidate tokens a and b, and its label-smoothed ranking loss.
//
//   forward    z[r, c] = sum_d h[r, d] w[ids[c], d]                  c = 0, 1
//   loss       Delta = z[r, label] - z[r, 1 - label],  nll = -ln sigma(Delta) + eps Delta,
//              dz[r, label] = weight (eps - sigma(-Delta)) = -dz[r, 1 - label]
//   backward   dh[r, d] = sum_c dz[r, c] w[ids[c], d]      dw[ids[c], d] += sum_r dz[r, c] h[r, d]
//
// h, dh [R, D], w, dw [V, D]; z, dz [R, 2]. The forward gives a row to a block, which reads h once for both sums; sums in float, each
// thread's own vectors ascending, then a tree, so a row's bits do not depend on other rows. The loss gives a row to a thread and computes
// in double, rounded once; a label other than 0 and 1 gives NaN. The backward is few_rows.cuh. Bytes per element: forward
// one times the storage type's; backward h once and dh once; flops 4 and 8. Limiter: latency below some thousand rows, then memory. On
// sm_90a 40 to 44 registers (forward), 54 to 80 (backward): 10 to 12 and 6 to 9 blocks to a multiprocessor. Oracle: src/ops/verdict.rs.
#include "few_rows.cuh"
#include "logistic.cuh"
#include "reduce.cuh"

constexpr int THREADS = 128;

template <bool WHOLE, class T> DEVICE void verdict_fwd(float* z, const T* h, const T* w0, const T* w1, int d) {
    constexpr int N = Vec<T>::N;
    SHARED(float, scratch, [2][THREADS / WARP]);
    float a = 0.f, b = 0.f;
#pragma unroll 4
    for (int c = threadIdx.x * N; c < d; c += THREADS * N) {
        const Packed<T> x = load_packed<WHOLE>(h + c, d - c);
        const Packed<T> u = load_packed<WHOLE>(w0 + c, d - c), v = load_packed<WHOLE>(w1 + c, d - c);
#pragma unroll
        for (int i = 0; i < N; i++) a += x[i] * u[i], b += x[i] * v[i];
    }
    a = block_sum<THREADS>(a, scratch[0]);
    b = block_sum<THREADS>(b, scratch[1]);
    if (threadIdx.x == 0) z[0] = a, z[1] = b;
}
template <class T> DEVICE void choose_fwd(Rows<float> z, Rows<const T> h, Rows<const T> w, int id0, int id1, int d) {
    const int64_t row = blockIdx.x;
    if (h.whole(d) && w.whole(d)) verdict_fwd<true>(z[row], h[row], w[id0], w[id1], d);
    else verdict_fwd<false>(z[row], h[row], w[id0], w[id1], d);
}

KERNEL(verdict_fwd_f32, (128), float* z, const float* h, const float* w, int id0, int id1, int d, int z_stride, int h_stride, int w_stride) {
    choose_fwd<float>({z, z_stride}, {h, h_stride}, {w, w_stride}, id0, id1, d);
}
KERNEL(verdict_fwd_bf16, (128), float* z, const bf16* h, const bf16* w, int id0, int id1, int d, int z_stride, int h_stride, int w_stride) {
    choose_fwd<bf16>({z, z_stride}, {h, h_stride}, {w, w_stride}, id0, id1, d);
}

KERNEL(verdict_loss, (128), float* nll, float* dz, const float* z, const int* labels, const float* eps, const float* weights, int r,
       int dz_stride, int z_stride) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= r) return;
    const int label = labels[row];
    const float* x = z + int64_t(row) * z_stride;
    float* g = dz + int64_t(row) * dz_stride;
    if (label != 0 && label != 1) {
        nll[row] = g[0] = g[1] = NAN;
        return;
    }
    const double delta = double(x[label]) - double(x[1 - label]), e = eps[row];
    const LogSigmoid s = log_sigmoid(delta);
    nll[row] = float(s.loss + e * delta);
    const double gradient = weights[row] * (e - s.miss);
    g[label] = float(gradient), g[1 - label] = float(-gradient);
}

// The types of h and dh.
KERNEL(verdict_bwd_f32_f32, (128), float* dh, float* partials, const float* dz, const float* h, const float* w, int id0, int id1, int r,
       int d, int dh_stride, int dz_stride, int h_stride, int w_stride, int stretch) {
    const float* const rows[2] = {w + int64_t(id0) * w_stride, w + int64_t(id1) * w_stride};
    few_rows<2, float, float>({dh, dh_stride}, partials, {dz, dz_stride}, {h, h_stride}, rows, r, d, stretch);
}
KERNEL(verdict_bwd_bf16_f32, (128), float* dh, float* partials, const float* dz, const bf16* h, const bf16* w, int id0, int id1, int r,
       int d, int dh_stride, int dz_stride, int h_stride, int w_stride, int stretch) {
    const bf16* const rows[2] = {w + int64_t(id0) * w_stride, w + int64_t(id1) * w_stride};
    few_rows<2, bf16, float>({dh, dh_stride}, partials, {dz, dz_stride}, {h, h_stride}, rows, r, d, stretch);
}
KERNEL(verdict_bwd_bf16_bf16, (128), bf16* dh, float* partials, const float* dz, const bf16* h, const bf16* w, int id0, int id1, int r,
       int d, int dh_stride, int dz_stride, int h_stride, int w_stride, int stretch) {
    const bf16* const rows[2] = {w + int64_t(id0) * w_stride, w + int64_t(id1) * w_stride};
    few_rows<2, bf16, bf16>({dh, dh_stride}, partials, {dz, dz_stride}, {h, h_stride}, rows, r, d, stretch);
}
