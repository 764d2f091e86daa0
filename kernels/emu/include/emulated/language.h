// CUDA's keywords and built-in variables, and the macros of `kernels/base/kernel.cuh` for the host.
#pragma once

#define EMULATED_GPU 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// What is not emulated does not compile, and the compiler's message says why.
#define __shared__ ::emu::shared_memory_is_declared_with_SHARED
#define __cluster_dims__(...) ::emu::the_emulated_GPU_has_no_clusters
#define __nv_fp8_e4m3 ::emu::the_emulated_GPU_has_no_8_bit_floats
#define __nv_fp8_e5m2 ::emu::the_emulated_GPU_has_no_8_bit_floats

#define threadIdx (::emu::current_face->thread_index)
#define blockIdx (::emu::position.block_index)
#define blockDim (::emu::position.block_size)
#define gridDim (::emu::position.grid_size)
[[maybe_unused]] static constexpr int warpSize = 32;

// A tensor map as cuTensorMapEncodeTiled fills it. Kernels take its address and pass it on.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};
#define TMAP const TensorMap&

#ifdef EMU_CHECKED
#define EMU_FLAVOUR ::emu::Flavour::checked
#else
#define EMU_FLAVOUR ::emu::Flavour::fast
#endif

#define KERNEL(name, bounds, ...)                                                                                    \
    static void name(__VA_ARGS__);                                                                                   \
    static const ::emu::Registration name##_registration{EMU_FLAVOUR, #name, __FILE__, &name, ::emu::Bounds bounds}; \
    static void name(__VA_ARGS__)

#define SHARED(T, name, dims)                         \
    using name##_array = T dims;                      \
    static char name##_tag;                           \
    name##_array& name = *static_cast<name##_array*>( \
        ::emu::shared_static(&name##_tag, #name, sizeof(name##_array), alignof(T), std::source_location::current()))
#define SHARED_DYNAMIC(T, name, align) \
    T* name = static_cast<T*>(::emu::shared_dynamic(align, std::source_location::current()))

// A copy whose size the compiler does not know is a call that the checker would not see.
#ifdef EMU_CHECKED
#define memcpy(to, from, n) \
    (__builtin_constant_p(n) ? (void)__builtin_memcpy(to, from, n) : ::emu::copy_checked(to, from, n))
#endif

#undef assert
#define assert(expression) ((expression) ? (void)0 : ::emu::assertion_failed(#expression, __FILE__, __LINE__))
