// CUDA's short vectors, with CUDA's alignments.
//
// They are copied whole, as the GPU's instructions do. Left to itself the compiler takes a vector apart, and the checked
// flavour, which counts what accesses cost, would see several narrow ones.
#pragma once

namespace emu {
typedef uint32_t Quadruple __attribute__((vector_size(16)));
template <size_t BYTES>
__attribute__((always_inline)) inline void copy_whole(void* to, const void* from) {
    if constexpr (BYTES == 4) *static_cast<uint32_t*>(to) = *static_cast<const uint32_t*>(from);
    else if constexpr (BYTES == 8) *static_cast<uint64_t*>(to) = *static_cast<const uint64_t*>(from);
    else if constexpr (BYTES == 16) *static_cast<Quadruple*>(to) = *static_cast<const Quadruple*>(from);
    else __builtin_memcpy(to, from, BYTES);
}
}  // namespace emu

#define EMU_WHOLE(V)                                                                        \
    V() = default;                                                                          \
    __attribute__((always_inline)) V(const V& o) { ::emu::copy_whole<sizeof(V)>(this, &o); } \
    __attribute__((always_inline)) V& operator=(const V& o) {                               \
        ::emu::copy_whole<sizeof(V)>(this, &o);                                             \
        return *this;                                                                       \
    }
#define EMU_VECTORS(T, name, align2, align4)                                                   \
    struct name##1 { T x; };                                                                   \
    struct alignas(align2) name##2 {                                                           \
        T x, y;                                                                                \
        name##2(T x, T y) : x(x), y(y) {}                                                      \
        EMU_WHOLE(name##2)                                                                     \
    };                                                                                         \
    struct name##3 { T x, y, z; };                                                             \
    struct alignas(align4) name##4 {                                                           \
        T x, y, z, w;                                                                          \
        name##4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}                                \
        EMU_WHOLE(name##4)                                                                     \
    };                                                                                         \
    [[maybe_unused]] static inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
    [[maybe_unused]] static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    [[maybe_unused]] static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)
#undef EMU_VECTORS
#undef EMU_WHOLE

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
