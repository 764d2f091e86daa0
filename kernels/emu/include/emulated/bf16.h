// bfloat16: storage types and conversions; rounding is to nearest even, a NaN becomes 0x7fff as on the GPU.
#pragma once

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

#define EMU_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

EMU_INLINE float __bfloat162float(__nv_bfloat16 h) { return std::bit_cast<float>(uint32_t(h.bits) << 16); }
EMU_INLINE __nv_bfloat16 __float2bfloat16_rn(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
EMU_INLINE __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
EMU_INLINE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
EMU_INLINE __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
EMU_INLINE __nv_bfloat162 __float2bfloat162_rn(float f) { return __floats2bfloat162_rn(f, f); }
EMU_INLINE __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
EMU_INLINE float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
EMU_INLINE float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
EMU_INLINE float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }
EMU_INLINE uint16_t __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
EMU_INLINE __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return {bits}; }
