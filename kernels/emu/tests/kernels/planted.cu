// Kernels with one bug each. Where the report must point is marked FOUND and the kernel's name.
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"

KERNEL(planted_missing_barrier, (128), float* y, const float* x) {
    SHARED(float, s, [128]);
    const int t = threadIdx.x;
    s[t] = 0.f;
    __syncthreads();
    s[t] = x[t];  // FOUND planted_missing_barrier
    y[t] = s[(t + 40) % 128];  // FOUND planted_missing_barrier
}
KERNEL(planted_lockstep, (32), float* y, const float* x) {
    SHARED(float, s, [32]);
    const int t = threadIdx.x;
    s[t] = 0.f;
    __syncthreads();
    s[t] = x[t];  // FOUND planted_lockstep
    y[t] = s[31 - t];  // FOUND planted_lockstep
}
KERNEL(planted_missing_second_barrier, (128), float* y, const float* x) {
    SHARED(float, s, [128]);
    const int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    y[t] = s[127 - t];  // FOUND planted_missing_second_barrier
    s[t] = 0.f;  // FOUND planted_missing_second_barrier
}
KERNEL(planted_early_wait, (32), float* y, const float* x) {
    SHARED(float4, s, [32]);
    const int t = threadIdx.x;
    cp_async16(&s[t], x + 4 * t, true);
    cp_async_commit();
    cp_async_wait<1>();
    y[t] = s[t].x;  // FOUND planted_early_wait
}
KERNEL(planted_foreign_copy, (64), float* y, const float* x) {
    SHARED(float4, s, [64]);
    const int t = threadIdx.x;
    s[t] = make_float4(0.f, 0.f, 0.f, 0.f);
    __syncthreads();
    cp_async16(&s[t], x + 4 * t, true);  // FOUND planted_foreign_copy
    cp_async_commit();
    cp_async_wait<0>();
    y[t] = s[63 - t].x;  // FOUND planted_foreign_copy
}
KERNEL(planted_unwaited_copy, (32), float* y, const float* x) {
    SHARED(float4, s, [32]);
    cp_async16(&s[threadIdx.x], x + 4 * threadIdx.x, true);  // FOUND planted_unwaited_copy
    cp_async_commit();
    y[threadIdx.x] = 1.f;
}
KERNEL(planted_global_overrun, (32), float* y, const float* x, int n) {
    y[threadIdx.x] = x[n - 31 + threadIdx.x];  // FOUND planted_global_overrun
}
KERNEL(planted_far_overrun, (32), float* y, const float* x, int n) {
    y[threadIdx.x] = x[n + 100000 + threadIdx.x];  // FOUND planted_far_overrun
}
KERNEL(planted_null, (32), float* y, NULLABLE const float* x) {
    y[threadIdx.x] = x[threadIdx.x];  // FOUND planted_null
}
KERNEL(planted_shared_overrun, (32), float* y, const float* x) {
    SHARED(float, s, [32]);
    SHARED(float, other, [32]);
    const int t = threadIdx.x;
    float* p = s;
    s[t] = other[t] = x[t];
    __syncthreads();
    y[t] = p[t + 1];  // FOUND planted_shared_overrun
}
KERNEL(planted_dynamic_overrun, (32), float* y, const float* x) {
    SHARED_DYNAMIC(float, s, 16);
    s[threadIdx.x] = x[threadIdx.x];  // FOUND planted_dynamic_overrun
    y[threadIdx.x] = s[threadIdx.x];
}
KERNEL(planted_misaligned, (32), float* y, const float* x) {
    y[threadIdx.x] = reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x)->x;  // FOUND planted_misaligned
}
KERNEL(planted_misaligned_copy, (32), float* y, const float* x) {
    SHARED(float4, s, [32]);
    cp_async16(&s[threadIdx.x], x + 1, true);  // FOUND planted_misaligned_copy
    cp_async_commit();
    cp_async_wait<0>();
    y[threadIdx.x] = s[threadIdx.x].x;
}
KERNEL(planted_misaligned_rows, (32), float* y, const float* x) {
    SHARED(float, s, [256]);
    uint32_t r[4];
    for (int i = threadIdx.x; i < 256; i += 32) s[i] = x[i % 32];
    __syncwarp();
    ldmatrix_x4(r, &s[2 * threadIdx.x]);  // FOUND planted_misaligned_rows
    y[threadIdx.x] = __uint_as_float(r[0]);
}
KERNEL(planted_uninitialised_shared, (32), float* y) {
    SHARED(float, s, [33]);
    s[threadIdx.x] = 1.f;
    __syncwarp();
    y[threadIdx.x] = s[threadIdx.x + 1];  // FOUND planted_uninitialised_shared
}
KERNEL(planted_uninitialised_global, (32), float* y, const float* x) {
    y[threadIdx.x] = x[threadIdx.x];  // FOUND planted_uninitialised_global
}
KERNEL(planted_divergent_barrier, (64), float* y) {
    if (threadIdx.x % 2) {
        __syncthreads();  // FOUND planted_divergent_barrier
    } else {
        y[threadIdx.x] = 1.f;
        __syncthreads();  // FOUND planted_divergent_barrier
    }
}
KERNEL(planted_barrier_after_exit, (64), float* y) {
    if (threadIdx.x >= 32) return;
    y[threadIdx.x] = 1.f;
    __syncthreads();  // FOUND planted_barrier_after_exit
}
KERNEL(planted_deadlock, (64), float* y) {
    if (threadIdx.x < 32) named_barrier_sync(1, 64);  // FOUND planted_deadlock
    else y[threadIdx.x] = 1.f;
}
KERNEL(planted_divergent_warp, (32), float* y) {
    float v = float(threadIdx.x);
    if (threadIdx.x < 16) v = __shfl_xor_sync(FULL, v, 1);  // FOUND planted_divergent_warp
    else v = __shfl_xor_sync(FULL, v, 2);  // FOUND planted_divergent_warp
    y[threadIdx.x] = v;
}
KERNEL(planted_shuffle_outside, (32), float* y) {
    float v = 1.f;
    if (threadIdx.x < 8) v = __shfl_sync(0xffu, v, threadIdx.x + 4);  // FOUND planted_shuffle_outside
    y[threadIdx.x] = v;
}
KERNEL(planted_block_race, (32), float* y) {
    if (threadIdx.x == 0) y[0] = float(blockIdx.x);  // FOUND planted_block_race
}
KERNEL(planted_unfenced_sum, (32), float* y, float* parts, uint32_t* counter) {
    SHARED(uint32_t, arrived, [1]);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = 1.f;
        arrived[0] = atomicAdd(counter, 1u);
    }
    __syncthreads();
    if (arrived[0] != gridDim.x - 1 || threadIdx.x) return;
    for (int i = 0; i < int(gridDim.x); i++) y[0] += parts[i];  // FOUND planted_unfenced_sum
}
KERNEL(planted_atomic_race, (64), uint32_t* y) {
    SHARED(uint32_t, count, [1]);
    if (threadIdx.x == 0) count[0] = 0;
    __syncthreads();
    atomicAdd(count, 1u);  // FOUND planted_atomic_race
    y[threadIdx.x] = count[0];  // FOUND planted_atomic_race
}
KERNEL(planted_byte_race, (32), uint8_t* y) {
    SHARED(uint8_t, s, [32]);
    s[threadIdx.x / 2] = 1;  // FOUND planted_byte_race
    __syncwarp();
    y[threadIdx.x] = s[threadIdx.x / 2];
}
KERNEL(planted_local_overrun, (32), float* y, int n) {
    float local[4] = {1.f, 2.f, 3.f, 4.f};
    y[threadIdx.x] = local[n];  // FOUND planted_local_overrun
}
KERNEL(planted_endless, (32), float* y, int n) {
    volatile int i = 1;
    while (i != n) i = i + 2;  // FOUND planted_endless
    y[threadIdx.x] = float(i);
}
KERNEL(planted_spin, (32), uint32_t* y) {
    if (blockIdx.x == 0) while (atomicAdd(&y[0], 0u) == 0) __nanosleep(10);
    else y[0] = 1;
}
KERNEL(planted_assertion, (32), float* y, int n) {
    assert(n > 40);  // FOUND planted_assertion
    y[threadIdx.x] = 1.f;
}
KERNEL(planted_deep_stack, (32), float* y, int n) {
    volatile float local[40000];
    for (int i = 0; i < 40000; i++) local[i] = float(i);
    y[threadIdx.x] = local[n];
}
