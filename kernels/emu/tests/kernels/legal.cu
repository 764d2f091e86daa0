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

// The same with a relaxed atomic between fences.
KERNEL(legal_fenced_sum, (128), float* y, float* parts, uint32_t* counter, const float* x, int n) {
    SHARED(float, scratch, [4]);
    SHARED(uint32_t, arrived, [1]);
    const int i = blockIdx.x * 128 + threadIdx.x;
    parts[i] = i < n ? x[i] : 0.f;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived[0] = atomicAdd(counter, 1u);
        __threadfence();
    }
    __syncthreads();
    if (arrived[0] != gridDim.x - 1) return;
    float total = 0.f;
    for (int b = threadIdx.x; b < int(gridDim.x) * 128; b += 128) total += parts[b];
    total = block_sum<128>(total, scratch);
    if (threadIdx.x == 0) y[0] = total;
}

// Bytes written by neighbouring threads, to shared and to global memory; counted by atomics.
KERNEL(legal_bytes, (64), uint8_t* y, uint32_t* counts, const uint8_t* x) {
    SHARED(uint8_t, bytes, [64]);
    SHARED(uint32_t, histogram, [4]);
    const int t = threadIdx.x;
    if (t < 4) histogram[t] = 0;
    bytes[t] = x[t];
    __syncthreads();
    atomicAdd(&histogram[bytes[63 - t] % 4], 1u);
    y[t] = bytes[63 - t];
    __syncthreads();
    if (t < 4) counts[t] = histogram[t];
}

// Shuffles, votes, matches and reductions against each other; y[t] is 0 where all agree.
KERNEL(legal_collectives, (96), int* y) {
    const int t = threadIdx.x, lane = t % WARP;
    int wrong = 0;
    wrong += __shfl_sync(FULL, t, 5) != t - lane + 5;
    wrong += __shfl_up_sync(FULL, lane, 3) != (lane < 3 ? lane : lane - 3);
    wrong += __shfl_down_sync(FULL, lane, 3, 8) != (lane % 8 > 4 ? lane : lane + 3);
    wrong += __shfl_xor_sync(FULL, double(lane), 7) != double(lane ^ 7);
    wrong += __ballot_sync(FULL, lane % 2) != 0xaaaaaaaau;
    wrong += !__any_sync(FULL, lane == 31) || __all_sync(FULL, lane != 31);
    wrong += __match_any_sync(FULL, lane % 4) != 0x11111111u << lane % 4;
    wrong += __reduce_add_sync(FULL, lane) != 496 || __reduce_max_sync(FULL, -lane) != 0 || __reduce_min_sync(FULL, unsigned(lane)) != 0;
    if (lane < 16) wrong += __reduce_or_sync(0xffffu, 1u << lane) != 0xffffu;
    wrong += __syncthreads_count(t % 3 == 0) != 32;
    wrong += __syncthreads_or(t == 95) == 0 || __syncthreads_and(t < 95) != 0;
    y[t] = wrong;
}

// One warp produces, the other consumes, over two buffers and four named barriers.
KERNEL(legal_producer, (64), int* y, int rounds) {
    SHARED(int, buffer, [2][32]);
    const int lane = threadIdx.x % WARP;
    int sum = 0;
    for (int i = 0; i < rounds; i++) {
        if (threadIdx.x < 32) {
            if (i >= 2) named_barrier_sync(3 + i % 2, 64);
            buffer[i % 2][lane] = i * lane;
            named_barrier_arrive(1 + i % 2, 64);
        } else {
            named_barrier_sync(1 + i % 2, 64);
            sum += buffer[i % 2][31 - lane];
            if (i + 2 < rounds) named_barrier_arrive(3 + i % 2, 64);
        }
    }
    if (threadIdx.x >= 32) y[lane] = sum;
}

// Copies that are 4 bytes wide, with nothing read where `valid` is false.
KERNEL(legal_narrow_copies, (32), float* y, const float* x, int n) {
    SHARED(float, row, [32]);
    const int t = threadIdx.x;
    cp_async4(&row[t], x + (t < n ? t : 0), t < n);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    y[t] = row[31 - t];
}
