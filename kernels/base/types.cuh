// Element types: conversions, and vectors of 16 bytes.
//
// Kernels are templates over the storage type `T` (float or bf16) and compute in float. `put<T>` is the one rounding point
// (to nearest even). `Vec<T>` is 16 bytes of T: 4 floats or 8 bf16.
#pragma once
#include <type_traits>

#include "kernel.cuh"

DEVICE float get(float x) { return x; }
DEVICE float get(bf16 x) { return __bfloat162float(x); }

template <class T> DEVICE T put(float x) {
    if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16_rn(x);
    else return x;
}

// Two floats as two bf16 in one register, `lo` in the low half.
DEVICE uint32_t pack_bf16(float lo, float hi) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
// Two bf16 in one register, as they are.
DEVICE uint32_t join_bf16(bf16 lo, bf16 hi) {
    const __nv_bfloat162 v = {lo, hi};
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
DEVICE float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

template <class T> struct Vec;
template <> struct Vec<float> {
    static constexpr int N = 4;
    MEMBER void load(float (&x)[4], const float* p) {
        const float4 v = *reinterpret_cast<const float4*>(p);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    }
    MEMBER void store(float* p, const float (&x)[4]) {
        *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
    }
};
template <> struct Vec<bf16> {
    static constexpr int N = 8;
    MEMBER void load(float (&x)[8], const bf16* p) {
        const uint4 v = *reinterpret_cast<const uint4*>(p);
        x[0] = low_bf16(v.x), x[1] = high_bf16(v.x), x[2] = low_bf16(v.y), x[3] = high_bf16(v.y);
        x[4] = low_bf16(v.z), x[5] = high_bf16(v.z), x[6] = low_bf16(v.w), x[7] = high_bf16(v.w);
    }
    MEMBER void store(bf16* p, const float (&x)[8]) {
        *reinterpret_cast<uint4*>(p) =
            make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    }
};

// Whether rows that start at `p` and follow each other by `stride` elements can be read 16 bytes at a time.
template <class T> DEVICE bool aligned16(const T* p, int stride) {
    return (reinterpret_cast<uint64_t>(p) & 15) == 0 && stride % Vec<T>::N == 0;
}

// Up to Vec<T>::N elements: a whole vector where `vector` says so and all are there, else one by one; missing ones are 0.
template <class T> DEVICE void load_part(float (&x)[Vec<T>::N], const T* p, int count, bool vector) {
    if (vector && count >= Vec<T>::N) {
        Vec<T>::load(x, p);
    } else {
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++) x[i] = i < count ? get(p[i]) : 0.f;
    }
}
template <class T> DEVICE void store_part(T* p, const float (&x)[Vec<T>::N], int count, bool vector) {
    if (vector && count >= Vec<T>::N) {
        Vec<T>::store(p, x);
    } else {
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++)
            if (i < count) p[i] = put<T>(x[i]);
    }
}
