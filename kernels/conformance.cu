// One kernel for each instruction of base/ptx.cuh, so that a real GPU can confirm what the emulated one takes it to mean.
//
// Every kernel reads `given`, runs its instruction for one warp or block, and dumps every register or byte it produced into `out`.
// The outputs of a real GPU are kept in tests/golden/conformance; src/ops/conformance.rs replays them. Nothing else launches
// these kernels.
#include "ptx.cuh"
#include "types.cuh"

// 2^given[i], then 1 / given[i], then the root of given[i].
KERNEL(conformance_approximations, (128), float* out, const float* given, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = exp2_approx(given[i]), out[n + i] = reciprocal_approx(given[i]), out[2 * n + i] = sqrt_approx(given[i]);
}

// Copies of 16 and of 4 bytes, every third one not valid, in two groups; waits for the first group alone, then for both.
KERNEL(conformance_cp_async, (128), int* out, const int* given) {
    SHARED(uint4, wide, [128]);
    SHARED(uint32_t, narrow, [128]);
    const int i = threadIdx.x;
    cp_async16(&wide[i], given + 4 * i, i % 3 != 2);
    cp_async_commit();
    cp_async4(&narrow[i], given + 512 + i, i % 3 != 1);
    cp_async_commit();
    cp_async_wait<1>();
    out[4 * i] = wide[i].x, out[4 * i + 1] = wide[i].y, out[4 * i + 2] = wide[i].z, out[4 * i + 3] = wide[i].w;
    cp_async_wait<0>();
    __syncthreads();
    out[512 + i] = narrow[127 - i];
}

// The registers of every lane after loading four matrices, plain and transposed.
KERNEL(conformance_ldmatrix, (32), int* out, const int* given) {
    SHARED(uint4, rows, [32]);
    const int lane = threadIdx.x;
    rows[lane] = make_uint4(given[4 * lane], given[4 * lane + 1], given[4 * lane + 2], given[4 * lane + 3]);
    __syncwarp();
    uint32_t plain[4], transposed[4];
    ldmatrix_x4(plain, &rows[lane]);
    ldmatrix_x4_trans(transposed, &rows[lane]);
    for (int j = 0; j < 4; j++) out[8 * lane + j] = plain[j], out[8 * lane + 4 + j] = transposed[j];
}

// The accumulators of every lane: d = c + a b, fragments straight from `given` (a: 4, b: 2 registers a lane), c from `sums`.
KERNEL(conformance_mma_bf16, (32), float* out, const int* given, const float* sums) {
    const int lane = threadIdx.x;
    uint32_t a[4];
    float d[4];
    for (int j = 0; j < 4; j++) a[j] = given[6 * lane + j], d[j] = sums[4 * lane + j];
    mma_bf16(d, a, given[6 * lane + 4], given[6 * lane + 5]);
    for (int j = 0; j < 4; j++) out[4 * lane + j] = d[j];
}

// The second half of the block hands numbers to the first through a named barrier that it does not wait at.
KERNEL(conformance_named_barrier, (128), int* out, const int* given) {
    SHARED(int, box, [128]);
    const int i = threadIdx.x;
    if (i >= 64) {
        box[i] = given[i];
        named_barrier_arrive(1, 128);
    } else {
        named_barrier_sync(1, 128);
        out[i] = box[127 - i];
        named_barrier_sync(2, 64);
        out[64 + i] = box[64 + i];
    }
}

// Every block leaves a number and counts itself; the last one adds up what all left. `counter` starts and ends at 0.
KERNEL(conformance_last_arriver, (32), int* out, uint32_t* counter, int* left, const int* given) {
    SHARED(int, last, [1]);
    if (threadIdx.x == 0) {
        left[blockIdx.x] = given[blockIdx.x];
        last[0] = atomic_add_acq_rel(counter, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last[0] && threadIdx.x == 0) {
        int sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++) sum += left[b];
        out[0] = sum;
        counter[0] = 0;
    }
}
