// Accesses whose cost is known. `costs.rs` finds the lines by their marks.
#include "kernel.cuh"
#include "ptx.cuh"
#include "types.cuh"

// Words that lie `stride` apart.
KERNEL(costs_strided, (64), float* y, int stride) {
    SHARED(float, words, [2][32 * 33]);
    const int lane = threadIdx.x % WARP;
    float* s = words[threadIdx.x / WARP];
    s[lane * stride] = float(lane);  // MARK strided store
    __syncthreads();
    y[threadIdx.x] = s[lane * stride];  // MARK strided load
}

// All lanes read one word; then pairs of lanes do, of half as many; then two words of one bank.
KERNEL(costs_broadcast, (32), float* y) {
    SHARED(float, s, [64]);
    const int lane = threadIdx.x;
    s[lane] = s[lane + 32] = float(lane);
    __syncwarp();
    float sum = s[7];     // MARK one word
    sum += s[lane / 2];   // MARK pairs
    sum += s[lane % 2 * 32];  // MARK two words
    y[lane] = sum;
}

// Neighbouring vectors are read without conflict; every second one is not.
KERNEL(costs_vectors, (32), float* y) {
    SHARED(float4, s, [64]);
    const int lane = threadIdx.x;
    s[lane] = s[lane + 32] = make_float4(1.f, 2.f, 3.f, 4.f);
    __syncwarp();
    const float4 a = s[lane];      // MARK whole
    const float4 b = s[2 * lane];  // MARK every second
    const float2 c = reinterpret_cast<const float2*>(s)[lane];      // MARK half
    const float2 d = reinterpret_cast<const float2*>(s)[2 * lane];  // MARK every second half
    y[lane] = a.x + a.y + a.z + a.w + b.x + b.y + b.z + b.w + c.x + c.y + d.x + d.y;
}

// Rows of 128 bytes, as they are and with their chunks swizzled. Copies come in along rows and down a column.
KERNEL(costs_matrices, (32), uint32_t* y, const uint32_t* x) {
    SHARED(uint4, rows, [32][8]);
    const int lane = threadIdx.x;
#pragma unroll 1
    for (int i = lane; i < 256; i += 32) cp_async16(&rows[i / 8][i % 8], x + 4 * i, true);  // MARK copy along
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    cp_async16(&rows[lane][0], x + 32 * lane, lane < 16);  // MARK copy down
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t r[4], q[4];
    ldmatrix_x4(r, &rows[lane][0]);                   // MARK straight
    ldmatrix_x4_trans(q, &rows[lane][lane % 8]);      // MARK swizzled
    y[lane] = r[0] ^ r[1] ^ r[2] ^ r[3] ^ q[0] ^ q[1] ^ q[2] ^ q[3];
}

// Device memory, `stride` floats from lane to lane, from `first` on.
KERNEL(costs_global, (32), float* y, const float* x, int first, int stride) {
    y[threadIdx.x] = x[first + int(threadIdx.x) * stride];  // MARK global
}
// 16 bytes a lane, of which some lanes want none; then one byte.
KERNEL(costs_global_vectors, (32), float* y, const float* x, const uint8_t* bytes) {
    const int lane = threadIdx.x;
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
    if (lane % 4 == 0) v = reinterpret_cast<const float4*>(x)[lane];  // MARK quarter of lanes
    y[lane] = v.x + v.y + v.z + v.w + float(bytes[lane]);             // MARK bytes
}

// Lanes that leave a loop early, others that come late: turns of the loop are not mixed up, since the warp meets in between.
KERNEL(costs_divergent, (32), float* y, const float* x, int turns) {
    const int lane = threadIdx.x;
    float sum = 0.f;
    for (int i = 0; i < turns; i++) {
        if (lane >= 16 * (i % 2)) sum += x[i * 32 + lane];  // MARK divergent
        __syncwarp();
    }
    y[lane] = sum;
}
