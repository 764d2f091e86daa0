// e^x in float with the bits of `src/base/simd.rs`, at most 2 units in the last place off: where a GPU must decide as the CPU does.
#pragma once
#include "kernel.cuh"

DEVICE float exp_of_cpu(float x) {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r is exact.
    const float low_clamped = x < -104.f ? -104.f : x;
    const float clamped = low_clamped > 89.f ? 89.f : low_clamped;
    constexpr float ROUND = 12582912.f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    const float shifted = __fmaf_rn(clamped, 1.4426950408889634f, ROUND);
    const float n = __fsub_rn(shifted, ROUND);
    float r = __fmaf_rn(n, -0.6933594f, clamped);
    r = __fmaf_rn(n, 2.1219444e-4f, r);
    float p = 1.9875691e-4f;
    p = __fmaf_rn(p, r, 1.3982e-3f);
    p = __fmaf_rn(p, r, 8.333452e-3f);
    p = __fmaf_rn(p, r, 4.1665796e-2f);
    p = __fmaf_rn(p, r, 1.6666665e-1f);
    p = __fmaf_rn(p, r, 5e-1f);
    p = __fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1.f);
    // 2^n in two factors: n may be as low as -150 and as high as 128.
    const int whole = int(__float_as_uint(shifted) - __float_as_uint(ROUND));
    const int half = whole >> 1;
    const float a = __uint_as_float(uint32_t(half + 127) << 23), b = __uint_as_float(uint32_t(whole - half + 127) << 23);
    return __fmul_rn(__fmul_rn(p, a), b);
}
