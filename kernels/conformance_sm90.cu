// One kernel for each of the sm_90a instructions of base/ptx.cuh and base/wgmma.cuh; see conformance.cu.
#define SM90A
#include "types.cuh"
#include "wgmma.cuh"

constexpr int TILE_WORDS = 64 * 32;  // 64 rows of 64 bf16

// Loads the box at (x, y), dumps shared memory as it lies there, negates every element, and stores the box to `to`.
KERNEL(conformance_tma, (128), int* out, TMAP from, TMAP to, int x, int y) {
    SHARED(uint64_t, arrived, [1]);
    SHARED_DYNAMIC(uint32_t, tile, 1024);
    if (threadIdx.x == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(arrived, TILE_WORDS * 4);
        tma_load_2d(tile, &from, arrived, x, y);
    }
    mbarrier_wait(arrived, 0);
    for (int i = threadIdx.x; i < TILE_WORDS; i += 128) {
        out[i] = tile[i];
        tile[i] ^= 0x80008000u;
    }
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&to, tile, x, y);
        tma_store_commit();
        tma_store_wait<0>();
    }
}

// A ring of two slots between a producing warp and three consuming ones: `rounds` numbers pass through it, each consumer adds
// up what it saw.
KERNEL(conformance_mbarrier, (128), int* out, const int* given, int rounds) {
    SHARED(uint64_t, full, [2]);
    SHARED(uint64_t, empty, [2]);
    SHARED(int, slot, [2][32]);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; s++) mbarrier_init(&full[s], 32), mbarrier_init(&empty[s], 96);
        fence_mbarrier_init();
    }
    __syncthreads();
    int sum = 0;
    for (int r = 0; r < rounds; r++) {
        const int s = r % 2, parity = r / 2 % 2;
        if (warp == 0) {
            mbarrier_wait(&empty[s], parity ^ 1);  // the phase before the first one counts as over
            slot[s][lane] = given[r * 32 + lane];
            mbarrier_arrive(&full[s]);
        } else {
            mbarrier_wait(&full[s], parity);
            sum += slot[s][(lane + warp) % 32];
            mbarrier_arrive(&empty[s]);
        }
    }
    out[threadIdx.x] = sum;
}

// The accumulators of every thread: 64 x 64 sums over 64, both operands with the summed index along the 128-byte rows, then with
// it across them, then as at first with the left operand in registers. Tiles come as they lie in shared memory, swizzled.
KERNEL(conformance_wgmma, (128, 1), float* out, const int* left, const int* right) {
    SHARED_DYNAMIC(uint32_t, tiles, 1024);
    uint32_t *a = tiles, *b = tiles + TILE_WORDS;
    for (int i = threadIdx.x; i < TILE_WORDS; i += 128) a[i] = left[i], b[i] = right[i];
    fence_proxy_async();
    __syncthreads();
    float along[32] = {}, across[32] = {}, registers[32] = {};
    uint32_t held[4][4];
    for (int step = 0; step < 4; step++)
        for (int j = 0; j < 4; j++) {
            const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16 + lane / 4 + 8 * (j % 2), piece = 2 * step + j / 2;
            held[step][j] = a[32 * row + 4 * (piece ^ (row % 8)) + lane % 4];
        }
    wgmma_fence();
    for (int step = 0; step < 4; step++)
        wgmma_bf16<64, false, false>(along, wgmma_descriptor(a + 8 * step, 16, 1024), wgmma_descriptor(b + 8 * step, 16, 1024), 1);
    for (int step = 0; step < 4; step++)
        wgmma_bf16<64, true, true>(across, wgmma_descriptor(a + 512 * step, 8192, 1024), wgmma_descriptor(b + 512 * step, 8192, 1024), 1);
    for (int step = 0; step < 4; step++) wgmma_bf16<64, false>(registers, held[step], wgmma_descriptor(b + 8 * step, 16, 1024), 1);
    wgmma_commit();
    wgmma_wait<0>();
    float* mine = out + 96 * threadIdx.x;
    for (int i = 0; i < 32; i++) mine[i] = along[i], mine[32 + i] = across[i], mine[64 + i] = registers[i];
}

// This thread's 64 x N sums over 64, with the summed index along the 128-byte rows or across them.
template <int N, bool ACROSS> DEVICE void wgmma_of_width(float* out, const uint32_t* a, const uint32_t* b) {
    constexpr int STEP = ACROSS ? 512 : 8, LEADING = ACROSS ? TILE_WORDS * 4 : 16;
    float sums[N / 2] = {};
    wgmma_fence();
    for (int step = 0; step < 4; step++)
        wgmma_bf16<N, ACROSS, ACROSS>(sums, wgmma_descriptor(a + STEP * step, LEADING, 1024),
                                      wgmma_descriptor(b + STEP * step, LEADING, 1024), 1);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++) out[i] = sums[i];
}
// The widths and operands of gemm_sm90.cu: 32 has no columns that are contiguous. `right` is four tiles, one after another.
// A block for each, since two of the widest do not fit into the registers.
KERNEL(conformance_wgmma_widths, (128, 1), float* out, const int* left, const int* right) {
    SHARED_DYNAMIC(uint32_t, tiles, 1024);
    uint32_t *a = tiles, *b = tiles + TILE_WORDS;
    for (int i = threadIdx.x; i < TILE_WORDS; i += 128) a[i] = left[i];
    for (int i = threadIdx.x; i < 4 * TILE_WORDS; i += 128) b[i] = right[i];
    fence_proxy_async();
    __syncthreads();
    float* mine = out + (16 + 2 * 64 + 2 * 128) * threadIdx.x;
    if (blockIdx.x == 0) wgmma_of_width<32, false>(mine, a, b);
    if (blockIdx.x == 1) wgmma_of_width<128, false>(mine + 16, a, b);
    if (blockIdx.x == 2) wgmma_of_width<128, true>(mine + 16 + 64, a, b);
    if (blockIdx.x == 3) wgmma_of_width<256, false>(mine + 16 + 2 * 64, a, b);
    if (blockIdx.x == 4) wgmma_of_width<256, true>(mine + 16 + 2 * 64 + 128, a, b);
}
