// SwiGLU, element by element.
//
//   forward    s = 1 / (1 + exp(-gate))      y = gate s up
//   backward   dgate = dy up s (1 + gate (1 - s))      dup = dy gate s
//
// All operands [T, F], rows strided. A thread takes vectors of 16 bytes of each operand, in the forward FWD_AT_ONCE and in
// the backward one, all read before the first is written: so an output may be an input of the same place. Computed in float, rounded
// once. Bytes per element: forward three times the storage type's, backward five times; about 16 and 22 instructions. Limiter:
// memory; 39 and 40 registers, 75% occupancy, 48 KB and 72 KB under way in a multiprocessor (ptxas puts the forward's second vectors
// behind the work on the first, to save registers). Oracle: src/ops/swiglu.rs.
#include "logistic.cuh"
#include "packed.cuh"

constexpr int THREADS = 256;
constexpr int FWD_AT_ONCE = 2;

template <bool WHOLE, class T>
DEVICE void swiglu_fwd(Rows<T> y, Rows<const T> gate, Rows<const T> up, uint32_t vectors, uint32_t per_row, int f) {
    Packed<T> g[FWD_AT_ONCE], u[FWD_AT_ONCE];
    Spot at[FWD_AT_ONCE];
#pragma unroll
    for (int k = 0; k < FWD_AT_ONCE; k++) {
        const uint32_t v = (blockIdx.x * FWD_AT_ONCE + k) * THREADS + threadIdx.x;
        at[k] = v < vectors ? spot<T>(v, per_row) : Spot{0, f};
        g[k] = load_packed<WHOLE>(gate.at(at[k]), f - at[k].col);
        u[k] = load_packed<WHOLE>(up.at(at[k]), f - at[k].col);
    }
#pragma unroll
    for (int k = 0; k < FWD_AT_ONCE; k++) {
        float out[Vec<T>::N];
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++) out[i] = g[k][i] * sigmoid(g[k][i]) * u[k][i];
        store_packed<WHOLE>(y.at(at[k]), Packed<T>::of(out), f - at[k].col);
    }
}

template <bool WHOLE, class T>
DEVICE void swiglu_bwd(Rows<T> dgate, Rows<T> dup, Rows<const T> dy, Rows<const T> gate, Rows<const T> up, uint32_t vectors,
                       uint32_t per_row, int f) {
    const uint32_t v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= vectors) return;
    const Spot at = spot<T>(v, per_row);
    const Packed<T> d = load_packed<WHOLE>(dy.at(at), f - at.col);
    const Packed<T> g = load_packed<WHOLE>(gate.at(at), f - at.col);
    const Packed<T> u = load_packed<WHOLE>(up.at(at), f - at.col);
    float d_gate[Vec<T>::N], d_up[Vec<T>::N];
#pragma unroll
    for (int i = 0; i < Vec<T>::N; i++) {
        const float s = sigmoid(g[i]);
        d_gate[i] = d[i] * u[i] * s * (1.f + g[i] * (1.f - s));
        d_up[i] = d[i] * g[i] * s;
    }
    store_packed<WHOLE>(dgate.at(at), Packed<T>::of(d_gate), f - at.col);
    store_packed<WHOLE>(dup.at(at), Packed<T>::of(d_up), f - at.col);
}

template <class T> DEVICE void choose_fwd(Rows<T> y, Rows<const T> gate, Rows<const T> up, int t, int f) {
    const uint32_t per_row = (f + Vec<T>::N - 1) / Vec<T>::N, vectors = t * per_row;
    if (y.whole(f) && gate.whole(f) && up.whole(f)) swiglu_fwd<true>(y, gate, up, vectors, per_row, f);
    else swiglu_fwd<false>(y, gate, up, vectors, per_row, f);
}
template <class T>
DEVICE void choose_bwd(Rows<T> dgate, Rows<T> dup, Rows<const T> dy, Rows<const T> gate, Rows<const T> up, int t, int f) {
    const uint32_t per_row = (f + Vec<T>::N - 1) / Vec<T>::N, vectors = t * per_row;
    if (dgate.whole(f) && dup.whole(f) && dy.whole(f) && gate.whole(f) && up.whole(f))
        swiglu_bwd<true>(dgate, dup, dy, gate, up, vectors, per_row, f);
    else swiglu_bwd<false>(dgate, dup, dy, gate, up, vectors, per_row, f);
}

KERNEL(swiglu_fwd_f32, (256), float* y, const float* gate, const float* up, int t, int f, int y_stride, int gate_stride, int up_stride) {
    choose_fwd<float>({y, y_stride}, {gate, gate_stride}, {up, up_stride}, t, f);
}
KERNEL(swiglu_fwd_bf16, (256), bf16* y, const bf16* gate, const bf16* up, int t, int f, int y_stride, int gate_stride, int up_stride) {
    choose_fwd<bf16>({y, y_stride}, {gate, gate_stride}, {up, up_stride}, t, f);
}
KERNEL(swiglu_bwd_f32, (256), float* dgate, float* dup, const float* dy, const float* gate, const float* up, int t, int f,
       int dgate_stride, int dup_stride, int dy_stride, int gate_stride, int up_stride) {
    choose_bwd<float>({dgate, dgate_stride}, {dup, dup_stride}, {dy, dy_stride}, {gate, gate_stride}, {up, up_stride}, t, f);
}
KERNEL(swiglu_bwd_bf16, (256), bf16* dgate, bf16* dup, const bf16* dy, const bf16* gate, const bf16* up, int t, int f,
       int dgate_stride, int dup_stride, int dy_stride, int gate_stride, int up_stride) {
    choose_bwd<bf16>({dgate, dgate_stride}, {dup, dup_stride}, {dy, dy_stride}, {gate, gate_stride}, {up, up_stride}, t, f);
}
