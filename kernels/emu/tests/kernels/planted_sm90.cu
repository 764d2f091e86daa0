// Kernels with one bug each, of the kinds that TMA, mbarriers and wgmma make possible. FOUND marks where the report must point.
#define SM90A
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"
#include "wgmma.cuh"

constexpr int BYTES = 64 * 64 * 2;

// One box of 64 x 64 bf16 arrives; then lane t looks at it.
KERNEL(planted_wrong_parity, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(full, BYTES);
        tma_load_2d(tile, &x, full, 0, 0);
    }
    mbarrier_wait(full, 1);
    y[threadIdx.x] = get(tile[threadIdx.x]);  // FOUND planted_wrong_parity
    mbarrier_wait(full, 0);
}
KERNEL(planted_wrong_bytes, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(full, 2 * BYTES);
        tma_load_2d(tile, &x, full, 0, 0);
    }
    mbarrier_wait(full, 0);  // FOUND planted_wrong_bytes
    y[threadIdx.x] = get(tile[threadIdx.x]);
}
KERNEL(planted_no_init_fence, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) mbarrier_init(full, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(full, BYTES);
        tma_load_2d(tile, &x, full, 0, 0);  // FOUND planted_no_init_fence
    }
    mbarrier_wait(full, 0);
    y[threadIdx.x] = get(tile[threadIdx.x]);
}
KERNEL(planted_init_not_ordered, (32), float* y) {
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 32);
        fence_mbarrier_init();
    }
    mbarrier_arrive(full);  // FOUND planted_init_not_ordered
    mbarrier_wait(full, 0);
    y[threadIdx.x] = 1.f;
}
KERNEL(planted_double_arrival, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(full, BYTES);
        mbarrier_arrive(full);  // FOUND planted_double_arrival
        tma_load_2d(tile, &x, full, 0, 0);
    }
    mbarrier_wait(full, 0);
    y[threadIdx.x] = get(tile[threadIdx.x]);
}
KERNEL(planted_no_proxy_fence, (128), TMAP y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    for (int i = threadIdx.x; i < 64 * 64; i += 128) tile[i] = put<bf16>(1.f);
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&y, tile, 0, 0);  // FOUND planted_no_proxy_fence
        tma_store_commit();
        tma_store_wait<0>();
    }
}
KERNEL(planted_store_reuse, (32), TMAP y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    for (int i = threadIdx.x; i < 64 * 64; i += 32) tile[i] = put<bf16>(1.f);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&y, tile, 0, 0);
        tma_store_commit();
        tile[7] = put<bf16>(2.f);  // FOUND planted_store_reuse
        tma_store_wait<0>();
    }
}
KERNEL(planted_misaligned_box, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(unsigned char, memory, 128);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(full, BYTES);
        tma_load_2d(memory, &x, full, 0, 0);  // FOUND planted_misaligned_box
    }
    __syncthreads();
    mbarrier_wait(full, 0);
    y[threadIdx.x] = float(memory[threadIdx.x]);
}

// Two tiles of 64 x 64 in shared memory, multiplied by one warpgroup.
DEVICE void fill(bf16* tile, int count) {
    for (int i = threadIdx.x; i < count; i += 128) tile[i] = put<bf16>(1.f);
    fence_proxy_async();
    __syncthreads();
}
KERNEL(planted_early_accumulators, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    float d[32] = {};
    fill(tile, 2 * 64 * 64);
    wgmma_fence();
    wgmma_bf16<64, false>(d, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile + 64 * 64, 16, 1024), 1);
    wgmma_commit();
    d[3] = 5.f;
    wgmma_wait<0>();  // FOUND planted_early_accumulators
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = d[i];
}
KERNEL(planted_no_wgmma_fence, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    float d[32] = {};
    fill(tile, 2 * 64 * 64);
    wgmma_bf16<64, false>(d, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile + 64 * 64, 16, 1024), 1);  // FOUND planted_no_wgmma_fence
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = d[i];
}
KERNEL(planted_operand_reuse, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    float d[32] = {};
    fill(tile, 2 * 64 * 64);
    wgmma_fence();
    wgmma_bf16<64, false>(d, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile + 64 * 64, 16, 1024), 1);
    wgmma_commit();
    tile[threadIdx.x] = put<bf16>(3.f);  // FOUND planted_operand_reuse
    wgmma_wait<0>();
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = d[i];
}
KERNEL(planted_operand_overrun, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    float d[32] = {};
    fill(tile, 2 * 64 * 64);
    wgmma_fence();
    wgmma_bf16<64, false>(d, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile + 64 * 64, 16, 2048), 1);  // FOUND planted_operand_overrun
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = d[i];
}
// The warps of a warpgroup read each other's rows of B: one warp's wait says nothing about the others.
KERNEL(planted_release_by_one_warp, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, empty, [1]);
    float d[32] = {};
    if (threadIdx.x == 0) {
        mbarrier_init(empty, 1);
        fence_mbarrier_init();
    }
    fill(tile, 2 * 64 * 64);
    wgmma_fence();
    wgmma_bf16<64, false>(d, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile + 64 * 64, 16, 1024), 1);
    wgmma_commit();
    wgmma_wait<0>();
    if (threadIdx.x == 0) mbarrier_arrive(empty);
    mbarrier_wait(empty, 0);
    if (threadIdx.x == 96) tile[64 * 64] = put<bf16>(3.f);  // FOUND planted_release_by_one_warp
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = d[i];
}
