// The backward of the scalar head, and the Bradley-Terry loss of its rewards.
//
//   head       dh[r, :] = ds[r] w      dw += sum_r ds[r] h[r, :]
//   loss       Delta[p] = s[chosen[p]] - s[rejected[p]] - margins[p]      nll[p] = -ln sigma(Delta[p])
//              pull[p] = weights[p] sigma(-Delta[p])      ds[chosen[p]] -= pull[p]      ds[rejected[p]] += pull[p]
//
// h, dh [R, D]; s, ds [R]; one pair p for each of P. The head's backward is few_rows.cuh. `bradley_terry_fwd` gives a pair to a
// thread and computes in double, rounded once; an index that is no response gives NaN. `bradley_terry_bwd` gives a response to a
// thread, which goes over all pairs in ascending order, so that a response of many pairs sums them as the oracle does, rounding
// each time: R P comparisons, with all threads of a warp reading the same pair. Bytes of the head: h once and dh once, 4 flops an element;
// of the loss: 28 a pair, read R / 128 times. Limiter: latency; the head's, from some thousand rows on, memory. On sm_90a 30 to 54
// registers: 9 to 16 blocks of 128 threads to a multiprocessor. Oracle: src/ops/scalar.rs.
#include "few_rows.cuh"
#include "logistic.cuh"

KERNEL(score_bwd_f32, (128), float* dh, float* partials, const float* ds, const float* h, const float* w, int r, int d, int dh_stride,
       int h_stride, int stretch) {
    const float* const rows[1] = {w};
    few_rows<1, float, float>({dh, dh_stride}, partials, {ds, 1}, {h, h_stride}, rows, r, d, stretch);
}
KERNEL(score_bwd_bf16, (128), bf16* dh, float* partials, const float* ds, const bf16* h, const bf16* w, int r, int d, int dh_stride,
       int h_stride, int stretch) {
    const bf16* const rows[1] = {w};
    few_rows<1, bf16, bf16>({dh, dh_stride}, partials, {ds, 1}, {h, h_stride}, rows, r, d, stretch);
}

KERNEL(bradley_terry_fwd, (128), float* nll, double* pull, const float* s, const int* chosen, const int* rejected, const float* margins,
       const float* weights, int p, int r) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p) return;
    const uint32_t better = chosen[i], worse = rejected[i], bound = r;
    const double delta = better < bound && worse < bound ? double(s[better]) - double(s[worse]) - margins[i] : double(NAN);
    const LogSigmoid l = log_sigmoid(delta);
    nll[i] = float(l.loss);
    pull[i] = weights[i] * l.miss;
}

KERNEL(bradley_terry_bwd, (128), float* ds, const double* pull, const int* chosen, const int* rejected, int p, int r) {
    const int response = blockIdx.x * blockDim.x + threadIdx.x;
    if (response >= r) return;
    float sum = 0.f;
#pragma unroll 4
    for (int i = 0; i < p; i++) {
        if (chosen[i] == response) sum = float(sum - pull[i]);
        if (rejected[i] == response) sum = float(sum + pull[i]);
    }
    ds[response] = sum;
}
