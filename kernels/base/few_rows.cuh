// The backward of a product with the C rows of a small head:  z[r, c] = sum_d h[r, d] w[c, d].
//
//   dh[r, d] = sum_c dz[r, c] w[c, d]                            stored
//   part[c, d] = sum_r dz[r, c] h[r, d]                          one for each stretch of rows; `partials_add` sums them in order
//
// A thread takes one vector of 16 bytes of columns and a stretch of rows: it keeps its columns of w and its sums in registers,
// and has AT_ONCE rows of h under way at once.
#pragma once
#include "packed.cuh"

constexpr int FEW_ROWS_THREADS = 128;
constexpr int AT_ONCE = 4;

template <bool WHOLE, int C, class E, class G>
DEVICE void few_rows_bwd(Rows<G> dh, float* const (&parts)[C], Rows<const float> dz, Rows<const E> h, const E* const (&w)[C], int begin,
                         int end, int d) {
    constexpr int N = Vec<E>::N;
    const int col = (blockIdx.x * FEW_ROWS_THREADS + threadIdx.x) * N, count = d - col;
    if (count <= 0) return;
    Packed<E> weights[C];
    float sums[C][N] = {};
#pragma unroll
    for (int c = 0; c < C; c++) weights[c] = load_packed<WHOLE>(w[c] + col, count);
    for (int first = begin; first < end; first += AT_ONCE) {
        Packed<E> x[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (first + k < end) x[k] = load_packed<WHOLE>(h[first + k] + col, count);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (first + k < end) {
                const float* g = dz[first + k];
                float out[N] = {};
#pragma unroll
                for (int c = 0; c < C; c++)
#pragma unroll
                    for (int i = 0; i < N; i++) out[i] += g[c] * weights[c][i], sums[c][i] += g[c] * x[k][i];
                store_floats<WHOLE>(dh[first + k] + col, out, count);
            }
    }
#pragma unroll
    for (int c = 0; c < C; c++) store_floats<WHOLE>(parts[c] + int64_t(blockIdx.y) * d + col, sums[c], count);
}

// `partials` [C, gridDim.y, D].
template <int C, class E, class G>
DEVICE void few_rows(Rows<G> dh, float* partials, Rows<const float> dz, Rows<const E> h, const E* const (&w)[C], int r, int d, int stretch) {
    const int begin = blockIdx.y * stretch, end = min(r, begin + stretch);
    float* parts[C];
    bool whole = dh.whole(d) && h.whole(d);
#pragma unroll
    for (int c = 0; c < C; c++) parts[c] = partials + int64_t(c) * gridDim.y * d, whole &= aligned16(w[c], 0);
    if (whole) few_rows_bwd<true, C>(dh, parts, dz, h, w, begin, end, d);
    else few_rows_bwd<false, C>(dh, parts, dz, h, w, begin, end, d);
}
