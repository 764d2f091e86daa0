// Sums and maxima over a warp and a block, in an order that depends on nothing but the number of threads.
#pragma once
#include "kernel.cuh"

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(FULL, v, offset);
    return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, offset));
    return v;
}

// The sum over all threads of a block, known to every thread. `scratch` is shared memory for one float a warp; it may be used
// again after the caller's next barrier. Every thread of the block must call it.
template <int THREADS> DEVICE float block_sum(float v, float* scratch) {
    static_assert(THREADS % WARP == 0 && THREADS <= 1024);
    v = warp_sum(v);
    if (THREADS == WARP) return v;
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    const int lane = threadIdx.x % WARP;
    return warp_sum(lane < THREADS / WARP ? scratch[lane] : 0.f);
}
template <int THREADS> DEVICE float block_max(float v, float* scratch) {
    static_assert(THREADS % WARP == 0 && THREADS <= 1024);
    v = warp_max(v);
    if (THREADS == WARP) return v;
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    const int lane = threadIdx.x % WARP;
    return warp_max(lane < THREADS / WARP ? scratch[lane] : -INFINITY);
}
