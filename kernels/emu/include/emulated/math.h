// Arithmetic. The fast functions of the GPU (`__expf`, `rsqrtf`, ...) are the exact ones here: compare with tolerances.
#pragma once

#define EMU_MIN_MAX(T)                                   \
    EMU_INLINE T min(T a, T b) { return b < a ? b : a; } \
    EMU_INLINE T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
EMU_INLINE float min(float a, float b) { return fminf(a, b); }
EMU_INLINE float max(float a, float b) { return fmaxf(a, b); }
using std::isfinite;
using std::isinf;
using std::isnan;

EMU_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EMU_INLINE float __frcp_rn(float x) { return 1.0f / x; }
EMU_INLINE float __fdividef(float a, float b) { return a / b; }
EMU_INLINE float __fdiv_rn(float a, float b) { return a / b; }
EMU_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
EMU_INLINE float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
EMU_INLINE float __fadd_rn(float a, float b) { return a + b; }
EMU_INLINE float __fsub_rn(float a, float b) { return a - b; }
EMU_INLINE float __fmul_rn(float a, float b) { return a * b; }
EMU_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMU_INLINE float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
EMU_INLINE float fdividef(float a, float b) { return a / b; }
// glibc declares some of these names itself, hence the macros.
EMU_INLINE float emu_expf(float x) { return expf(x); }
EMU_INLINE float emu_logf(float x) { return logf(x); }
EMU_INLINE float emu_log2f(float x) { return log2f(x); }
EMU_INLINE float emu_sinf(float x) { return sinf(x); }
EMU_INLINE float emu_cosf(float x) { return cosf(x); }
EMU_INLINE void emu_sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
EMU_INLINE float emu_powf(float x, float y) { return powf(x, y); }
#define __expf emu_expf
#define __logf emu_logf
#define __log2f emu_log2f
#define __sinf emu_sinf
#define __cosf emu_cosf
#define __sincosf emu_sincosf
#define sincosf emu_sincosf
#define __powf emu_powf

EMU_INLINE unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
EMU_INLINE float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
EMU_INLINE int __float_as_int(float f) { return std::bit_cast<int>(f); }
EMU_INLINE float __int_as_float(int i) { return std::bit_cast<float>(i); }
EMU_INLINE int __float2int_rn(float f) { return int(rintf(f)); }
EMU_INLINE int __float2int_rz(float f) { return int(f); }
EMU_INLINE int __float2int_rd(float f) { return int(floorf(f)); }
EMU_INLINE int __float2int_ru(float f) { return int(ceilf(f)); }
EMU_INLINE unsigned __float2uint_rn(float f) { return unsigned(rintf(f)); }
EMU_INLINE float __int2float_rn(int i) { return float(i); }
EMU_INLINE float __uint2float_rn(unsigned i) { return float(i); }

EMU_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMU_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMU_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMU_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
EMU_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)(x)) : 64; }
EMU_INLINE unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= ((x >> i) & 1) << (31 - i);
    return r;
}
EMU_INLINE unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
EMU_INLINE int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
EMU_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
EMU_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
    return unsigned(((uint64_t(high) << 32 | low) << (n & 31)) >> 32);
}
EMU_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
    return unsigned((uint64_t(high) << 32 | low) >> (n & 31));
}
EMU_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= unsigned(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
    return r;
}

// Cache hints change nothing here.
template <class T>
EMU_INLINE T __ldg(const T* p) {
    return *p;
}
template <class T>
EMU_INLINE T __ldcs(const T* p) {
    return *p;
}
template <class T>
EMU_INLINE T __ldcg(const T* p) {
    return *p;
}
template <class T>
EMU_INLINE T __ldca(const T* p) {
    return *p;
}
template <class T>
EMU_INLINE T __ldlu(const T* p) {
    return *p;
}
template <class T>
EMU_INLINE void __stcs(T* p, std::type_identity_t<T> v) {
    *p = v;
}
template <class T>
EMU_INLINE void __stcg(T* p, std::type_identity_t<T> v) {
    *p = v;
}
template <class T>
EMU_INLINE void __stwt(T* p, std::type_identity_t<T> v) {
    *p = v;
}
