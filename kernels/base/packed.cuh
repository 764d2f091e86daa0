// 16 bytes of a tensor as they lie in memory.
//
// A thread of a kernel that is bound by memory has several vectors under way before it uses the first. Kept packed, a vector of
// bf16 costs four registers instead of eight.
//
// Kernels choose once, for the whole launch, between WHOLE (every row is aligned to 16 bytes and is a whole number of vectors)
// and the other path, which takes elements one by one and works for any width and alignment. Both hold the same elements in
// the same threads, so sums are taken in the same order.
#pragma once
#include "types.cuh"

template <class T> struct Packed {
    static constexpr int N = Vec<T>::N;
    uint32_t words[4];

    __device__ __forceinline__ float operator[](int i) const {
        if constexpr (std::is_same_v<T, bf16>) return i % 2 ? high_bf16(words[i / 2]) : low_bf16(words[i / 2]);
        else return __uint_as_float(words[i]);
    }
    // The one rounding point.
    MEMBER Packed of(const float (&x)[N]) {
        Packed v;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (std::is_same_v<T, bf16>) v.words[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
            else v.words[i] = __float_as_uint(x[i]);
        }
        return v;
    }
    MEMBER Packed all(float x) {
        float filled[N];
#pragma unroll
        for (int i = 0; i < N; i++) filled[i] = x;
        return of(filled);
    }
};

DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
DEVICE uint32_t bits_of(bf16 x) { return __bfloat16_as_ushort(x); }
DEVICE float with_bits(uint32_t bits, float) { return __uint_as_float(bits); }
DEVICE bf16 with_bits(uint32_t bits, bf16) { return __ushort_as_bfloat16(uint16_t(bits)); }

// A vector of which `count` elements exist; the others are 0.
template <bool WHOLE, class T> DEVICE Packed<T> load_packed(const T* p, int count) {
    Packed<T> v = {};
    if constexpr (WHOLE) {
        if (count > 0) {
            const uint4 x = *reinterpret_cast<const uint4*>(p);
            v.words[0] = x.x, v.words[1] = x.y, v.words[2] = x.z, v.words[3] = x.w;
        }
    } else {
        constexpr int EACH = Vec<T>::N / 4;  // elements in a word
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++)
            if (i < count) v.words[i / EACH] |= bits_of(p[i]) << (i % EACH * 16);
    }
    return v;
}
template <bool WHOLE, class T> DEVICE void store_packed(T* p, const Packed<T>& v, int count) {
    if constexpr (WHOLE) {
        if (count > 0) *reinterpret_cast<uint4*>(p) = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
    } else {
        constexpr int EACH = Vec<T>::N / 4;
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++)
            if (i < count) p[i] = with_bits(v.words[i / EACH] >> (i % EACH * 16), T());
    }
}

// N floats from or to storage of any type: as many vectors as that takes.
template <bool WHOLE, class T, int N> DEVICE void load_floats(float (&x)[N], const T* p, int count) {
#pragma unroll
    for (int first = 0; first < N; first += Vec<T>::N) {
        const Packed<T> v = load_packed<WHOLE>(p + first, count - first);
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++) x[first + i] = v[i];
    }
}
template <bool WHOLE, class T, int N> DEVICE void store_floats(T* p, const float (&x)[N], int count) {
#pragma unroll
    for (int first = 0; first < N; first += Vec<T>::N) {
        float part[Vec<T>::N];
#pragma unroll
        for (int i = 0; i < Vec<T>::N; i++) part[i] = x[first + i];
        store_packed<WHOLE>(p + first, Packed<T>::of(part), count - first);
    }
}

// Where vector number `v` of a tensor lies, when vectors are counted row by row, `per_row` in each.
struct Spot {
    uint32_t row;
    int col;
};
template <class T> DEVICE Spot spot(uint32_t v, uint32_t per_row) {
    const uint32_t row = v / per_row;
    return {row, int(v - row * per_row) * Vec<T>::N};
}

// A tensor: rows that follow each other by `stride` elements.
template <class T> struct Rows {
    T* start;
    int stride;

    __device__ __forceinline__ T* operator[](int64_t row) const { return start + row * stride; }
    __device__ __forceinline__ T* at(Spot s) const { return start + int64_t(s.row) * stride + s.col; }
    // Whether rows of this width are whole aligned vectors.
    __device__ __forceinline__ bool whole(int width) const {
        return aligned16(start, stride) && width % Vec<std::remove_const_t<T>>::N == 0;
    }
};
template <class T> Rows(T*, int) -> Rows<T>;
