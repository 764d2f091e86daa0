// A product of matrices as Hopper does it: a producer warpgroup fills a ring of stages by TMA, two consumer warpgroups multiply with
// wgmma, and the result leaves through shared memory and TMA. Legal; the tests compare its numbers and require silence.
#define SM90A
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"
#include "wgmma.cuh"

constexpr int STAGES = 4, BM = 128, BN = 64, BK = 64;

// c[m, n] = sum over k of a[m, k] b[n, k] (B_ROWS: b[k, n]); c in bf16. Tensor maps with boxes of 64 columns and 128-byte swizzle.
template <bool B_ROWS, bool A_IN_REGISTERS>
DEVICE void multiply(const TensorMap* c, const TensorMap* a, const TensorMap* b, int k_size) {
    SHARED_DYNAMIC(unsigned char, memory, 1024);
    SHARED(uint64_t, full, [STAGES]);
    SHARED(uint64_t, empty, [STAGES]);
    bf16* const tile_a = reinterpret_cast<bf16*>(memory);
    bf16* const tile_b = tile_a + STAGES * BM * BK;
    bf16* const tile_c = tile_b + STAGES * BN * BK;
    const int group = threadIdx.x / 128, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, steps = (k_size + BK - 1) / BK;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 8);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (group == 0) {
        registers_decrease<40>();
        if (threadIdx.x != 0) return;
        for (int i = 0; i < steps; i++) {
            const int s = i % STAGES;
            mbarrier_wait(&empty[s], (i / STAGES & 1) ^ 1);
            mbarrier_arrive_expect_tx(&full[s], (BM + BN) * BK * 2);
            tma_load_2d(tile_a + s * BM * BK, a, &full[s], i * BK, m0);
            if constexpr (B_ROWS) tma_load_2d(tile_b + s * BN * BK, b, &full[s], n0, i * BK);
            else tma_load_2d(tile_b + s * BN * BK, b, &full[s], i * BK, n0);
        }
        return;
    }
    registers_increase<232>();
    const int consumer = group - 1, warp = threadIdx.x / WARP % 4, lane = threadIdx.x % WARP;
    float acc[BN / 2] = {};
    for (int i = 0; i < steps; i++) {
        const int s = i % STAGES;
        mbarrier_wait(&full[s], i / STAGES & 1);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++) {
            const bf16* from_a = tile_a + s * BM * BK + consumer * 64 * BK;
            const bf16* from_b = tile_b + s * BN * BK + (B_ROWS ? k * 16 * BN : k * 16);
            const uint64_t describe_b = wgmma_descriptor(from_b, B_ROWS ? 8192 : 16, 1024);
            if constexpr (A_IN_REGISTERS) {
                uint32_t r[4];
                const int row = warp * 16 + lane % 16, chunk = 2 * k + lane / 16;
                ldmatrix_x4(r, from_a + row * BK + (chunk ^ (row & 7)) * 8);
                wgmma_bf16<BN, B_ROWS>(acc, r, describe_b, 1);
            } else {
                wgmma_bf16<BN, B_ROWS>(acc, wgmma_descriptor(from_a + k * 16, 16, 1024), describe_b, 1);
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&empty[s]);
    }
    const int row = consumer * 64 + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = row + 8 * h;
            *reinterpret_cast<uint32_t*>(tile_c + r * BN + (j ^ (r & 7)) * 8 + 2 * (lane % 4)) =
                pack_bf16(acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1]);
        }
    fence_proxy_async();
    named_barrier_sync(1, 256);
    if (threadIdx.x == 128) {
        tma_store_2d(c, tile_c, n0, m0);
        tma_store_commit();
        tma_store_wait<0>();
    }
}
KERNEL(legal_multiply_nt, (384, 1), TMAP c, TMAP a, TMAP b, int k) { multiply<false, false>(&c, &a, &b, k); }
KERNEL(legal_multiply_nn, (384, 1), TMAP c, TMAP a, TMAP b, int k) { multiply<true, false>(&c, &a, &b, k); }
KERNEL(legal_multiply_registers, (384, 1), TMAP c, TMAP a, TMAP b, int k) { multiply<false, true>(&c, &a, &b, k); }

// Two warpgroups take turns at one resource (ping-pong): named barriers order their accesses to shared memory.
KERNEL(legal_ping_pong, (256), int* y, int rounds) {
    SHARED(int, value, [128]);
    const int group = threadIdx.x / 128, t = threadIdx.x % 128;
    if (group == 0) value[t] = 0;
    if (group == 1) named_barrier_arrive(2, 256);
    for (int i = 0; i < rounds; i++) {
        named_barrier_sync(2 + group, 256);
        value[t] = value[t] * 2 + group;
        named_barrier_arrive(2 + (group ^ 1), 256);
    }
    if (group == 0) {
        named_barrier_sync(2, 256);
        y[t] = value[t];
    }
}
