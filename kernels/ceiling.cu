// What the memory of this GPU can do at most: the yardsticks of `gramophone bench`.
//
//   copy    to = from
//   read    out[b] = the exclusive or of the 32-bit words of piece b
//
// N vectors of 16 bytes. A thread moves four, one block's width apart, all loaded before the first is used. Copy: 32 bytes a
// vector; read: 16. Limiter: memory: 30 registers, full occupancy, 128 KB under way in a
// multiprocessor. Oracle: src/ops/ceiling.rs.
#include "kernel.cuh"

constexpr int EACH = 4;

KERNEL(ceiling_copy, (256), float* to, const float* from, uint64_t vectors) {
    const uint64_t first = uint64_t(blockIdx.x) * (256 * EACH) + threadIdx.x;
    const float4* source = reinterpret_cast<const float4*>(from);
    float4* target = reinterpret_cast<float4*>(to);
    float4 v[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * 256 < vectors) v[k] = source[first + k * 256];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * 256 < vectors) target[first + k * 256] = v[k];
}

// A block reads `per` vectors, 16 KiB a round.
KERNEL(ceiling_read, (256), int* out, const float* from, uint64_t vectors, int per) {
    SHARED(uint32_t, parts, [8]);
    const uint4* source = reinterpret_cast<const uint4*>(from);
    const uint64_t begin = uint64_t(blockIdx.x) * per, end = min(vectors, begin + per);
    uint32_t bits = 0;
    for (uint64_t at = begin + threadIdx.x; at < end; at += 256 * EACH) {
        uint4 v[EACH] = {};
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if (at + k * 256 < end) v[k] = source[at + k * 256];
#pragma unroll
        for (int k = 0; k < EACH; k++) bits ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) bits ^= __shfl_xor_sync(FULL, bits, offset);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = bits;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 8; w++) bits ^= parts[w];
        out[blockIdx.x] = int(bits);
    }
}
