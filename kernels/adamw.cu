// AdamW over a flat arena: every parameter of a model in one launch.
//
//   g' = clip g,  m += (1 - beta1) (g' - m),  v = beta2 v + (1 - beta2) g'^2
//   p = p (1 - lr decay) - step m / (sqrt(v) unbias + eps)
//
// N elements in stretches of 256; `decays` has a byte for each stretch that says whether weight decay applies. A warp takes a
// stretch, a lane two runs of four neighbours, 128 apart, so that every access of a warp is one contiguous piece (16 bytes a lane
// in f32, 8 in bf16, 4 of codes), and everything is loaded before anything is computed. No sums, but for the two maxima of an 8-bit
// stretch. Each operation is rounded by itself (no contraction but the one `fma` of the CPU), so the bits are the CPU's.
//
//   kernel                p      beside it              bytes an element (gradient f32 | bf16)
//   adamw_step            f32    f32 m, v               28
//   adamw_master_step     bf16   f32 master, m, v       30 | 28
//   adamw_sr_step         bf16   f32 m, v               24 | 22; 1/4 Philox an element
//   adamw_8bit_step       f32    u8 m, sqrt(v), scales  16 1/16
//   adamw_8bit_sr_step    bf16   u8 m, sqrt(v), scales  12 1/16 | 10 1/16; 1/2 Philox an element
//
// A thread has 128 bytes under way in f32, 48 with 8-bit moments and bf16; 64 to 80 registers, three or four blocks on a multiprocessor of
// 65536: 37 to 98 KB there. Some 45 instructions an element with f32 moments, 75 with random rounding: the limiter is memory. Some 135
// with 8-bit moments, where an H200's memory leaves time for 70 (bf16, 10 bytes an element) to 110 (f32): the limiter is the issue of
// instructions, a seventh of them Philox. Oracle: src/ops/adamw.rs, codes.rs, rounding.rs.
#include "ptx.cuh"
#include "reduce.cuh"
#include "rng.cuh"
#include "types.cuh"

constexpr int THREADS = 256;
constexpr int STRETCH = 256;       // elements that one warp takes, and that share the scales of their 8-bit moments
constexpr int RUN = 4;             // neighbours that one lane takes
constexpr int RUNS = STRETCH / (RUN * WARP);

// The constants of one step, rounded by the host.
struct Rates {
    float clip, shrink, new_m, keep_v, new_v, step, unbias, eps;
};
// What the random words are keyed by, but for the element.
struct Draws {
    uint32_t key0, key1, stream, step;
};

// The new parameter; moments are updated in place.
DEVICE float update(const Rates& r, float shrink, float p, float& m, float& v, float g) {
    g = __fmul_rn(g, r.clip);
    m = __fmaf_rn(r.new_m, __fsub_rn(g, m), m);
    v = __fadd_rn(__fmul_rn(r.keep_v, v), __fmul_rn(__fmul_rn(r.new_v, g), g));
    const float divisor = __fadd_rn(__fmul_rn(__fsqrt_rn(v), r.unbias), r.eps);
    return __fsub_rn(__fmul_rn(p, shrink), __fdiv_rn(__fmul_rn(r.step, m), divisor));
}

// ---------------------------------------------------------------- runs of four

DEVICE void load_run(float (&x)[RUN], const float* p) { Vec<float>::load(x, p); }
DEVICE void load_run(float (&x)[RUN], const bf16* p) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    x[0] = low_bf16(v.x), x[1] = high_bf16(v.x), x[2] = low_bf16(v.y), x[3] = high_bf16(v.y);
}
DEVICE void load_run(uint8_t (&x)[RUN], const uint8_t* p) {
    const uint32_t v = *reinterpret_cast<const uint32_t*>(p);
#pragma unroll
    for (int i = 0; i < RUN; i++) x[i] = uint8_t(v >> 8 * i);
}
DEVICE void store_run(float* p, const float (&x)[RUN]) { Vec<float>::store(p, x); }
DEVICE void store_run(bf16* p, const bf16 (&x)[RUN]) {
    *reinterpret_cast<uint2*>(p) = make_uint2(join_bf16(x[0], x[1]), join_bf16(x[2], x[3]));
}
DEVICE void store_run(uint8_t* p, const uint8_t (&x)[RUN]) {
    *reinterpret_cast<uint32_t*>(p) = uint32_t(x[0]) | uint32_t(x[1]) << 8 | uint32_t(x[2]) << 16 | uint32_t(x[3]) << 24;
}
DEVICE float wide(float x) { return x; }
DEVICE float wide(bf16 x) { return get(x); }
DEVICE uint8_t wide(uint8_t x) { return x; }

// The stretch of one warp: where its lanes' runs lie, and how much of them there is. WHOLE: all of it, aligned.
template <bool WHOLE> struct Stretch {
    uint64_t index, n;

    // The first element of this lane's run number `k`.
    __device__ __forceinline__ uint64_t at(int k) const {
        return index * STRETCH + k * (RUN * WARP) + threadIdx.x % WARP * RUN;
    }
    template <class T, class X> __device__ __forceinline__ void load(X (&x)[RUNS][RUN], const T* p) const {
#pragma unroll
        for (int k = 0; k < RUNS; k++) {
            if constexpr (WHOLE) {
                load_run(x[k], p + at(k));
            } else {
#pragma unroll
                for (int i = 0; i < RUN; i++) x[k][i] = at(k) + i < n ? wide(p[at(k) + i]) : X(0);
            }
        }
    }
    template <class T> __device__ __forceinline__ void store(T* p, const T (&x)[RUNS][RUN]) const {
#pragma unroll
        for (int k = 0; k < RUNS; k++) {
            if constexpr (WHOLE) {
                store_run(p + at(k), x[k]);
            } else {
#pragma unroll
                for (int i = 0; i < RUN; i++)
                    if (at(k) + i < n) p[at(k) + i] = x[k][i];
            }
        }
    }
};

// Calls `step` with this warp's stretch, if there is one. Which way is decided once, for the loads must not wait for each other.
template <class Step> DEVICE void on_stretch(uint64_t n, bool vector, Step step) {
    const uint64_t index = uint64_t(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    if (vector && (index + 1) * STRETCH <= n) step(Stretch<true>{index, n});
    else if (index * STRETCH < n) step(Stretch<false>{index, n});
}
template <class... T> DEVICE bool aligned(const T*... p) { return (((reinterpret_cast<uint64_t>(p) & 15) == 0) && ...); }

// ---------------------------------------------------------------- rounding at random

// The two neighbours of x in bf16, chosen so that x comes out right on average: the upper half of `word` decides.
template <class P> DEVICE P put_random(float x, uint32_t word) {
    if constexpr (std::is_same_v<P, float>) return x;
    else {
        if (!isfinite(x)) return put<bf16>(x);
        return __ushort_as_bfloat16(uint16_t((__float_as_uint(x) + (word >> 16)) >> 16));
    }
}

// ---------------------------------------------------------------- f32 moments

// `p` is stepped; `copy`, where there is one, follows it in bf16.
template <bool WHOLE, class G>
DEVICE void step_f32(Stretch<WHOLE> s, bf16* copy, float* p, float* m, float* v, const G* g, const uint8_t* decays, const Rates& rates) {
    const float shrink = decays[s.index] ? rates.shrink : 1.f;
    float ps[RUNS][RUN], ms[RUNS][RUN], vs[RUNS][RUN], gs[RUNS][RUN];
    s.load(ps, p), s.load(ms, m), s.load(vs, v), s.load(gs, g);
    bf16 rounded[RUNS][RUN];
#pragma unroll
    for (int k = 0; k < RUNS; k++)
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            ps[k][i] = update(rates, shrink, ps[k][i], ms[k][i], vs[k][i], gs[k][i]);
            rounded[k][i] = put<bf16>(ps[k][i]);
        }
    s.store(p, ps), s.store(m, ms), s.store(v, vs);
    if (copy != nullptr) s.store(copy, rounded);
}

template <bool WHOLE, class G>
DEVICE void step_sr(Stretch<WHOLE> s, bf16* p, float* m, float* v, const G* g, const uint8_t* decays, uint64_t first, const Rates& rates,
                    const Draws& draws) {
    const float shrink = decays[s.index] ? rates.shrink : 1.f;
    float ps[RUNS][RUN], ms[RUNS][RUN], vs[RUNS][RUN], gs[RUNS][RUN];
    s.load(ps, p), s.load(ms, m), s.load(vs, v), s.load(gs, g);
    bf16 rounded[RUNS][RUN];
#pragma unroll
    for (int k = 0; k < RUNS; k++) {
        // Four neighbours share a counter.
        const Words words = random_words(draws.key0, draws.key1, draws.stream, draws.step, (first + s.at(k)) / RUN);
#pragma unroll
        for (int i = 0; i < RUN; i++)
            rounded[k][i] = put_random<bf16>(update(rates, shrink, ps[k][i], ms[k][i], vs[k][i], gs[k][i]), words.w[i]);
    }
    s.store(p, rounded), s.store(m, ms), s.store(v, vs);
}

// ---------------------------------------------------------------- 8-bit moments

// Conversions between small integers and float are exact additions of a number whose last bit counts ones: they take no turn of the
// units for conversions and roots, which take eight cycles for a warp.

// m = scale c |c| / 127^2
DEVICE float decode_signed(uint8_t code, float scale) {
    const float c = __fsub_rn(__uint_as_float(0x4b000000u | (code ^ 0x80u)), 8388608.f + 128.f);
    return __fmul_rn(__fmul_rn(c, fabsf(c)), __fmul_rn(scale, 1.f / (127.f * 127.f)));
}
// sqrt(v) = scale (c / 255)^2
DEVICE float decode_unsigned(uint8_t code, float scale) {
    const float c = __fsub_rn(__uint_as_float(0x4b000000u | code), 8388608.f);
    return __fmul_rn(__fmul_rn(c, c), __fmul_rn(scale, 1.f / (255.f * 255.f)));
}
constexpr float INTEGERS = 12582912.f;  // 1.5 * 2^23
// The low byte of a small integer, negative ones in two's complement.
DEVICE uint8_t low_byte(float c) { return uint8_t(__float_as_uint(__fadd_rn(c, INTEGERS))); }
// The c in 0..top with (c / top)^2 near x, one of the two neighbours, such that the mean of the square is right.
DEVICE float compand(float x, float top, uint32_t word) {
    const float target = __fmul_rn(x, top * top);
    // The integer nearest to the root is the one below or the one above: whichever, no error of the root matters.
    float low = __fsub_rn(__fadd_rn(sqrt_approx(target), INTEGERS), INTEGERS);
    float above = __fmaf_rn(-low, low, target);
    if (above < 0.f) low -= 1.f, above = __fmaf_rn(-low, low, target);
    // A draw of 24 bits between the two squares, 2 low + 1 apart; the powers of two change no rounding.
    const float draw = __fmul_rn(float(word >> 8), __fmaf_rn(2.f / (1 << 24), low, 1.f / (1 << 24)));
    return fminf(above > draw ? low + 1.f : low, top);
}
DEVICE uint8_t encode_signed(float x, uint32_t word) {
    const float c = compand(fabsf(x), 127.f, word);
    return low_byte(x < 0.f ? -c : c);
}
// Not zero unless x is.
DEVICE uint8_t encode_unsigned(float x, uint32_t word) {
    const float c = compand(x, 255.f, word);
    return low_byte(x > 0.f && c == 0.f ? 1.f : c);
}

template <bool WHOLE, class P, class G>
DEVICE void step_8bit(Stretch<WHOLE> s, P* p, uint8_t* m_code, uint8_t* v_code, float* m_scale, float* v_scale, const G* g,
                      const uint8_t* decays, const Rates& rates, const Draws& draws) {
    const float shrink = decays[s.index] ? rates.shrink : 1.f;
    float ps[RUNS][RUN], gs[RUNS][RUN], m[RUNS][RUN], root[RUNS][RUN];
    uint8_t m_codes[RUNS][RUN], v_codes[RUNS][RUN];
    s.load(ps, p), s.load(gs, g), s.load(m_codes, m_code), s.load(v_codes, v_code);
    const float scales[2] = {m_scale[s.index], v_scale[s.index]};
    float largest[2] = {0.f, 0.f};
#pragma unroll
    for (int k = 0; k < RUNS; k++)
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            m[k][i] = decode_signed(m_codes[k][i], scales[0]);
            const float r = decode_unsigned(v_codes[k][i], scales[1]);
            float v = __fmul_rn(r, r);
            ps[k][i] = update(rates, shrink, ps[k][i], m[k][i], v, gs[k][i]);
            root[k][i] = __fsqrt_rn(v);
            largest[0] = fmaxf(largest[0], fabsf(m[k][i]));
            largest[1] = fmaxf(largest[1], root[k][i]);
        }
    // Elements beyond the end are zeros, which raise no maximum.
    largest[0] = warp_max(largest[0]), largest[1] = warp_max(largest[1]);
    const float inverse[2] = {largest[0] > 0.f ? __fdiv_rn(1.f, largest[0]) : 0.f, largest[1] > 0.f ? __fdiv_rn(1.f, largest[1]) : 0.f};
    P rounded[RUNS][RUN];
#pragma unroll
    for (int k = 0; k < RUNS; k++) {
#pragma unroll
        for (int pair = 0; pair < RUN / 2; pair++) {
            // Two neighbours share a counter: each owns two words. The upper half of the first is the parameter's.
            const Words words = random_words(draws.key0, draws.key1, draws.stream, draws.step, s.at(k) / 2 + pair);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int i = 2 * pair + j;
                rounded[k][i] = put_random<P>(ps[k][i], words.w[2 * j]);
                m_codes[k][i] = encode_signed(__fmul_rn(m[k][i], inverse[0]), words.w[2 * j] << 16);
                v_codes[k][i] = encode_unsigned(__fmul_rn(root[k][i], inverse[1]), words.w[2 * j + 1]);
            }
        }
    }
    s.store(p, rounded), s.store(m_code, m_codes), s.store(v_code, v_codes);
    __syncwarp();  // All lanes have read the old scales.
    if (threadIdx.x % WARP == 0) m_scale[s.index] = largest[0], v_scale[s.index] = largest[1];
}

// ---------------------------------------------------------------- kernels

KERNEL(adamw_step_f32, (256), float* p, float* m, float* v, const float* g, const uint8_t* decays, uint64_t n, float clip, float shrink,
       float new_m, float keep_v, float new_v, float step, float unbias, float eps) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    on_stretch(n, aligned(p, m, v, g), [&](auto s) { step_f32(s, nullptr, p, m, v, g, decays, rates); });
}
KERNEL(adamw_master_step_f32, (256), bf16* p, float* master, float* m, float* v, const float* g, const uint8_t* decays, uint64_t n,
       float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias, float eps) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    on_stretch(n, aligned(p, master, m, v, g), [&](auto s) { step_f32(s, p, master, m, v, g, decays, rates); });
}
KERNEL(adamw_master_step_bf16, (256), bf16* p, float* master, float* m, float* v, const bf16* g, const uint8_t* decays, uint64_t n,
       float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias, float eps) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    on_stretch(n, aligned(p, master, m, v, g), [&](auto s) { step_f32(s, p, master, m, v, g, decays, rates); });
}
KERNEL(adamw_sr_step_f32, (256), bf16* p, float* m, float* v, const float* g, const uint8_t* decays, uint64_t n, uint64_t first,
       float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias, float eps, uint32_t key0, uint32_t key1,
       uint32_t stream, uint32_t number) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    const Draws draws = {key0, key1, stream, number};
    on_stretch(n, aligned(p, m, v, g), [&](auto s) { step_sr(s, p, m, v, g, decays, first, rates, draws); });
}
KERNEL(adamw_sr_step_bf16, (256), bf16* p, float* m, float* v, const bf16* g, const uint8_t* decays, uint64_t n, uint64_t first,
       float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias, float eps, uint32_t key0, uint32_t key1,
       uint32_t stream, uint32_t number) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    const Draws draws = {key0, key1, stream, number};
    on_stretch(n, aligned(p, m, v, g), [&](auto s) { step_sr(s, p, m, v, g, decays, first, rates, draws); });
}
KERNEL(adamw_8bit_step_f32, (256), float* p, uint8_t* m_code, uint8_t* v_code, float* m_scale, float* v_scale, const float* g,
       const uint8_t* decays, uint64_t n, float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias,
       float eps, uint32_t key0, uint32_t key1, uint32_t stream, uint32_t number) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    const Draws draws = {key0, key1, stream, number};
    on_stretch(n, aligned(p, m_code, v_code, g),
               [&](auto s) { step_8bit(s, p, m_code, v_code, m_scale, v_scale, g, decays, rates, draws); });
}
KERNEL(adamw_8bit_sr_step_f32, (256), bf16* p, uint8_t* m_code, uint8_t* v_code, float* m_scale, float* v_scale, const float* g,
       const uint8_t* decays, uint64_t n, float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias,
       float eps, uint32_t key0, uint32_t key1, uint32_t stream, uint32_t number) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    const Draws draws = {key0, key1, stream, number};
    on_stretch(n, aligned(p, m_code, v_code, g),
               [&](auto s) { step_8bit(s, p, m_code, v_code, m_scale, v_scale, g, decays, rates, draws); });
}
KERNEL(adamw_8bit_sr_step_bf16, (256), bf16* p, uint8_t* m_code, uint8_t* v_code, float* m_scale, float* v_scale, const bf16* g,
       const uint8_t* decays, uint64_t n, float clip, float shrink, float new_m, float keep_v, float new_v, float step, float unbias,
       float eps, uint32_t key0, uint32_t key1, uint32_t stream, uint32_t number) {
    const Rates rates = {clip, shrink, new_m, keep_v, new_v, step, unbias, eps};
    const Draws draws = {key0, key1, stream, number};
    on_stretch(n, aligned(p, m_code, v_code, g),
               [&](auto s) { step_8bit(s, p, m_code, v_code, m_scale, v_scale, g, decays, rates, draws); });
}
