// The element-wise parts of Muon; its products are `gemm`, its norm is `norm2`.
//
//   average    m += (1 - momentum) (clip g - m),  u = clip g + momentum (m - clip g)
//   scale      y = factor x, or x / (sqrt(square) + 1e-7) with the square in device memory
//   combine    square = b gram + c square
//   mirror     out[i, j] = out[j, i] above the diagonal
//   apply      p = p shrink + factor x, a bf16 p rounded at random, keyed by the element of the whole arena
//
// Contiguous matrices as N elements in a row; a thread takes four neighbours (16 bytes in f32). One read of each input, one write of
// each output: memory is the limiter, at full occupancy (18 to 30 registers; average 20 bytes an element in f32, scale 8, combine 12,
// mirror 8 per two elements, apply 12 or 8).
// Operations are rounded one by one, as on the CPU, so the bits are the CPU's given the same products. Oracle: src/ops/muon.rs.
#include "rng.cuh"
#include "types.cuh"

constexpr int RUN = 4;
constexpr int TILE = 32;

DEVICE uint64_t first_of_run() { return (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * RUN; }
template <class... T> DEVICE bool aligned(const T*... p) { return (((reinterpret_cast<uint64_t>(p) & 15) == 0) && ...); }

template <class T> DEVICE void load_run(float (&x)[RUN], const T* p, uint64_t at, uint64_t n, bool vector) {
    if (vector && at + RUN <= n) {
        if constexpr (std::is_same_v<T, float>) Vec<float>::load(x, p + at);
        else {
            const uint2 v = *reinterpret_cast<const uint2*>(p + at);
            x[0] = low_bf16(v.x), x[1] = high_bf16(v.x), x[2] = low_bf16(v.y), x[3] = high_bf16(v.y);
        }
    } else {
#pragma unroll
        for (int i = 0; i < RUN; i++) x[i] = at + i < n ? get(p[at + i]) : 0.f;
    }
}
DEVICE void store_run(float* p, const float (&x)[RUN], uint64_t at, uint64_t n, bool vector) {
    if (vector && at + RUN <= n) {
        Vec<float>::store(p + at, x);
    } else {
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (at + i < n) p[at + i] = x[i];
    }
}

template <class G> DEVICE void average(float* u, float* m, const G* g, uint64_t n, float clip, float keep, float fresh) {
    const uint64_t at = first_of_run();
    const bool vector = aligned(u, m, g);
    float us[RUN], ms[RUN], gs[RUN];
    load_run(ms, m, at, n, vector), load_run(gs, g, at, n, vector);
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        const float scaled = __fmul_rn(clip, gs[i]);
        ms[i] = __fmaf_rn(fresh, __fsub_rn(scaled, ms[i]), ms[i]);
        us[i] = __fmaf_rn(keep, __fsub_rn(ms[i], scaled), scaled);
    }
    store_run(m, ms, at, n, vector), store_run(u, us, at, n, vector);
}

template <class P>
DEVICE void apply(P* p, const float* x, uint64_t n, float shrink, float factor, uint64_t first, uint32_t key0, uint32_t key1,
                  uint32_t stream, uint32_t step) {
    const uint64_t at = first_of_run();
    if (at >= n) return;
    const bool vector = aligned(p, x);
    float ps[RUN], xs[RUN];
    load_run(ps, p, at, n, vector), load_run(xs, x, at, n, vector);
#pragma unroll
    for (int i = 0; i < RUN; i++) ps[i] = __fmaf_rn(factor, xs[i], __fmul_rn(ps[i], shrink));
    if constexpr (std::is_same_v<P, float>) {
        store_run(p, ps, at, n, vector);
    } else {
        Words words;
        uint32_t halves[RUN];
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            // Four neighbours of the arena share a counter.
            const uint64_t element = first + at + i;
            if (i == 0 || element % 4 == 0) words = random_words(key0, key1, stream, step, element / 4);
            uint32_t word = words.w[0];
#pragma unroll
            for (int w = 1; w < 4; w++) word = element % 4 == uint64_t(w) ? words.w[w] : word;
            halves[i] = isfinite(ps[i]) ? (__float_as_uint(ps[i]) + (word >> 16)) >> 16 : pack_bf16(ps[i], 0.f) & 0xffffu;
        }
        if (vector && at + RUN <= n) {
            *reinterpret_cast<uint2*>(p + at) = make_uint2(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16);
        } else {
#pragma unroll
            for (int i = 0; i < RUN; i++)
                if (at + i < n) p[at + i] = __ushort_as_bfloat16(uint16_t(halves[i]));
        }
    }
}

KERNEL(muon_average_f32, (256), float* u, float* m, const float* g, uint64_t n, float clip, float keep, float fresh) {
    average(u, m, g, n, clip, keep, fresh);
}
KERNEL(muon_average_bf16, (256), float* u, float* m, const bf16* g, uint64_t n, float clip, float keep, float fresh) {
    average(u, m, g, n, clip, keep, fresh);
}
KERNEL(muon_scale, (256), float* y, const float* x, NULLABLE const double* square, uint64_t n, float factor) {
    const uint64_t at = first_of_run();
    const bool vector = aligned(y, x);
    if (square != nullptr) factor = float(1.0 / (sqrt(*square) + 1e-7));
    float v[RUN];
    load_run(v, x, at, n, vector);
#pragma unroll
    for (int i = 0; i < RUN; i++) v[i] = __fmul_rn(factor, v[i]);
    store_run(y, v, at, n, vector);
}
KERNEL(muon_combine, (256), float* square, const float* gram, uint64_t n, float b, float c) {
    const uint64_t at = first_of_run();
    const bool vector = aligned(square, gram);
    float s[RUN], g[RUN];
    load_run(s, square, at, n, vector), load_run(g, gram, at, n, vector);
#pragma unroll
    for (int i = 0; i < RUN; i++) s[i] = __fadd_rn(__fmul_rn(b, g[i]), __fmul_rn(c, s[i]));
    store_run(square, s, at, n, vector);
}
// A block turns one tile; blocks below the diagonal have nothing to do.
KERNEL(muon_mirror, (256), float* out, int n, int stride) {
    if (blockIdx.y > blockIdx.x) return;
    SHARED(float, tile, [TILE][TILE + 1]);
    const int column = threadIdx.x % TILE, upper = blockIdx.y * TILE, right = blockIdx.x * TILE;
    for (int r = threadIdx.x / TILE; r < TILE; r += 256 / TILE)
        if (right + r < n && upper + column < n) tile[r][column] = out[int64_t(right + r) * stride + upper + column];
    __syncthreads();
    for (int r = threadIdx.x / TILE; r < TILE; r += 256 / TILE) {
        const int i = upper + r, j = right + column;
        if (i < j && j < n) out[int64_t(i) * stride + j] = tile[column][r];
    }
}
KERNEL(muon_apply_f32, (256), float* p, const float* x, uint64_t n, float shrink, float factor, uint64_t first, uint32_t key0,
       uint32_t key1, uint32_t stream, uint32_t step) {
    apply(p, x, n, shrink, factor, first, key0, key1, stream, step);
}
KERNEL(muon_apply_bf16, (256), bf16* p, const float* x, uint64_t n, float shrink, float factor, uint64_t first, uint32_t key0,
       uint32_t key1, uint32_t stream, uint32_t step) {
    apply(p, x, n, shrink, factor, first, key0, key1, stream, step);
}
