// Every width of wgmma, every swizzle of operand tiles and of TMA's boxes. Where an element lies is written here as PTX's manual draws
// it, row by row of 16-byte chunks, not as the emulated GPU computes it.
#define SM90A
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"
#include "wgmma.cuh"

// The element (row, column) of a tile whose rows are WIDTH bytes: 128, 64 or 32 with the swizzle of that width.
template <int WIDTH> DEVICE int swizzled_place(int row, int column) {
    const int chunk = column / 8, turn = WIDTH == 128 ? row % 8 : WIDTH == 64 ? row / 2 % 4 : row / 4 % 2;
    return row * (WIDTH / 2) + (chunk ^ turn) * 8 + column % 8;
}
// Without swizzle: cores of 8 rows of 16 bytes; those beside each other along k follow each other, then those along the rows.
template <int COLUMNS> DEVICE int core_place(int row, int column) {
    return (row / 8 * (COLUMNS / 8) + column / 8) * 64 + row % 8 * 8 + column % 8;
}
DEVICE uint64_t descriptor(const bf16* tile, uint32_t leading, uint32_t stride, uint64_t layout) {
    return (wgmma_descriptor(tile, leading, stride) & ~(3ull << 62)) | layout << 62;
}

// y[64, N] = a[64, K] b[N, K]^T with K = WIDTH / 2 (or 32 without swizzle: WIDTH 0), both operands along k.
template <int N, int WIDTH> DEVICE void multiply_tile(float* y, const bf16* a, const bf16* b) {
    SHARED_DYNAMIC(bf16, memory, 1024);
    constexpr int K = WIDTH ? WIDTH / 2 : 32;
    bf16 *const tile_a = memory, *const tile_b = memory + 64 * K;
    auto place = [](int row, int column) {
        if constexpr (WIDTH == 0) return core_place<K>(row, column);
        else return swizzled_place<WIDTH>(row, column);
    };
    for (int i = threadIdx.x; i < 64 * K; i += 128) tile_a[place(i / K, i % K)] = a[i];
    for (int i = threadIdx.x; i < N * K; i += 128) tile_b[place(i / K, i % K)] = b[i];
    fence_proxy_async();
    __syncthreads();
    constexpr uint64_t LAYOUT = WIDTH == 128 ? 1 : WIDTH == 64 ? 2 : WIDTH == 32 ? 3 : 0;
    constexpr uint32_t STRIDE = WIDTH ? 8 * WIDTH : K / 8 * 128;
    float d[N / 2] = {};
    wgmma_fence();
    for (int k = 0; k < K / 16; k++) {
        const int on = WIDTH ? k * 16 : k * 128;  // elements: 32 bytes of a row, or two cores
        wgmma_bf16<N, false>(d, descriptor(tile_a + on, 128, STRIDE, LAYOUT), descriptor(tile_b + on, 128, STRIDE, LAYOUT), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (int r = 0; r < N / 2; r++) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + r / 2 % 2 * 8;
        y[row * N + r / 4 * 8 + threadIdx.x % 4 * 2 + r % 2] = d[r];
    }
}
#define MULTIPLY(n, width) \
    KERNEL(legal_wgmma_##n##_##width, (128), float* y, const bf16* a, const bf16* b) { multiply_tile<n, width>(y, a, b); }
MULTIPLY(32, 128)
MULTIPLY(64, 128)
MULTIPLY(96, 128)
MULTIPLY(128, 128)
MULTIPLY(192, 128)
MULTIPLY(256, 128)
MULTIPLY(96, 64)
MULTIPLY(96, 32)
MULTIPLY(96, 0)

// y[16, WIDTH / 2] = a box of 16 rows of WIDTH bytes that TMA brought with the swizzle of that width.
template <int WIDTH> DEVICE void copy_box(bf16* y, const TensorMap* x) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(full, 16 * WIDTH);
        tma_load_2d(tile, x, full, 0, 0);
    }
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < 8 * WIDTH; i += 32) y[i] = tile[swizzled_place<WIDTH>(i / (WIDTH / 2), i % (WIDTH / 2))];
}
KERNEL(legal_box_128, (32), bf16* y, TMAP x) { copy_box<128>(y, &x); }
KERNEL(legal_box_64, (32), bf16* y, TMAP x) { copy_box<64>(y, &x); }
KERNEL(legal_box_32, (32), bf16* y, TMAP x) { copy_box<32>(y, &x); }

// What is refused. A swizzle repeats after 1024, 512 or 256 bytes.
KERNEL(planted_misaligned_swizzle, (32), float* y, TMAP x) {
    SHARED_DYNAMIC(bf16, memory, 1024);
    SHARED(uint64_t, full, [1]);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(full, 16 * 64);
        tma_load_2d(memory + 128, &x, full, 0, 0);  // FOUND planted_misaligned_swizzle
    }
    __syncthreads();
    mbarrier_wait(full, 0);
    y[threadIdx.x] = get(memory[threadIdx.x]);
}
KERNEL(planted_other_width, (128), float* y) {
    SHARED_DYNAMIC(bf16, tile, 1024);
    float d[20] = {};
    wgmma_fence();
    emu::wgmma_bf16(d, 40, nullptr, wgmma_descriptor(tile, 16, 1024), wgmma_descriptor(tile, 16, 1024), 1, false, false, std::source_location::current());  // FOUND planted_other_width
    y[threadIdx.x] = d[0];
}
KERNEL(planted_copy_of_eight, (32), float* y, const float* x) {
    SHARED(float2, row, [32]);
    emu::cp_async(&row[threadIdx.x], x + 2 * threadIdx.x, 8, 8, std::source_location::current());  // FOUND planted_copy_of_eight
    y[threadIdx.x] = row[threadIdx.x].x;
}
