// The language that kernels are written in, on the GPU (nvcc) and on the emulated GPU (a host compiler).
//
//   KERNEL(name, (threads[, blocks per SM]), type arg, ...) { body }
//
// declares a kernel; this line is its whole interface. `build.rs` reads it and writes the Rust launcher; the block size stands
// here and nowhere else. Names are unique across all files. Argument types: `float* bf16* int* uint8_t* uint16_t* uint32_t*
// uint64_t*`, each also `const`; `int uint32_t uint64_t float`; `TMAP` (a tensor map). `NULLABLE` before a pointer says that
// the launcher may pass none. Tensors that a kernel writes come first.
//
//   SHARED(float, name, [32]);            shared memory of fixed size
//   SHARED_DYNAMIC(float, name, 128);     the block's dynamic shared memory (one per kernel), aligned to so many bytes
//
// Raw `__shared__` and inline assembly outside `ptx.cuh` are not allowed: the emulated GPU could not see them.
// Warps are not in lockstep: every exchange between lanes goes through a `_sync` function or a barrier.
#pragma once

#ifdef __CUDACC__

#include <cstdint>
#include <cuda_bf16.h>

#define KERNEL(name, bounds, ...) extern "C" __global__ void __launch_bounds__ bounds name(__VA_ARGS__)
#define SHARED(T, name, dims) __shared__ T name dims
#define SHARED_DYNAMIC(T, name, align)                               \
    extern __shared__ __align__(align) unsigned char name##_bytes[]; \
    T* name = reinterpret_cast<T*>(name##_bytes)
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};
#define TMAP const __grid_constant__ TensorMap

#else

#include "emulated.h"  // the same names for a host compiler: kernels/emu/include

#endif

#define NULLABLE
#define DEVICE static __device__ __forceinline__
#define MEMBER static __device__ __forceinline__  // the same, of a struct

typedef __nv_bfloat16 bf16;
constexpr unsigned FULL = 0xffffffffu;  // all lanes of a warp
constexpr int WARP = 32;
