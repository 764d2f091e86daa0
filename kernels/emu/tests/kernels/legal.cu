// Legal idioms: the checker must stay silent on all of them.
#include "kernel.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "types.cuh"

// y = x * factor, a block a row.
KERNEL(legal_scale, (128), float* y, const float* x, int n, float factor) {
    for (int i = threadIdx.x; i < n; i += 128) y[blockIdx.x * n + i] = x[blockIdx.x * n + i] * factor;
}

// Sums each row over shared memory.
KERNEL(legal_block_sum, (256), float* y, const float* x, int n) {
    SHARED(float, scratch, [8]);
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += 256) sum += x[blockIdx.x * n + i];
    sum = block_sum<256>(sum, scratch);
    if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

// Sums all of x: each block writes its part, the last one to arrive adds the parts in order.
KERNEL(legal_last_block_sum, (128), float* y, float* parts, uint32_t* counter, const float* x, int n) {
    SHARED(float, scratch, [4]);
    SHARED(uint32_t, arrived, [1]);
    const int i = blockIdx.x * 128 + threadIdx.x;
    const float sum = block_sum<128>(i < n ? x[i] : 0.f, scratch);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        arrived[0] = atomic_add_acq_rel(counter, 1);
    }
    __syncthreads();
    if (arrived[0] != gridDim.x - 1) return;
    float total = 0.f;
    for (int b = threadIdx.x; b < int(gridDim.x); b += 128) total += parts[b];
    __syncthreads();
    total = block_sum<128>(total, scratch);
    if (threadIdx.x == 0) {
        y[0] = total;
        counter[0] = 0;
    }
}
