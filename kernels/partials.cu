// Adding up the parts of a sum that blocks have left behind, in order.
//
//   out[c] += sum_s sum_p partials[p, c]        PIECES pieces s of neighbouring rows p, both ascending, in float
//
// A gradient of D columns whose parts lie in P rows. A block takes 32 columns; each of its warps sums one piece, sixteen rows under way at
// once, and the first warp adds the pieces. The order depends on P alone. Bytes: 4 P D, flops P D. Limiter: latency, for P is some hundred
// rows: two rounds of loads where P = 512, and D / 32 blocks of 512 threads (32 registers: four to a multiprocessor). Oracle: the sums
// above; src/ops/partials.rs.
#include "types.cuh"

constexpr int PIECES = 16;
constexpr int COLUMNS = 32;

template <class T> DEVICE void partials_add(T* out, const float* partials, int parts, int d) {
    SHARED(float, sums, [PIECES][COLUMNS]);
    const int lane = threadIdx.x % COLUMNS, piece = threadIdx.x / COLUMNS, c = blockIdx.x * COLUMNS + lane;
    const int rows = (parts + PIECES - 1) / PIECES, begin = piece * rows, end = min(parts, begin + rows);
    float sum = 0.f;
    if (c < d) {
#pragma unroll 16
        for (int p = begin; p < end; p++) sum += partials[int64_t(p) * d + c];
    }
    sums[piece][lane] = sum;
    __syncthreads();
    if (piece > 0 || c >= d) return;
#pragma unroll
    for (int s = 1; s < PIECES; s++) sum += sums[s][lane];
    out[c] = put<T>(get(out[c]) + sum);
}

KERNEL(partials_add_f32, (512), float* out, const float* partials, int parts, int d) { partials_add(out, partials, parts, d); }
KERNEL(partials_add_bf16, (512), bf16* out, const float* partials, int parts, int d) { partials_add(out, partials, parts, d); }
