// Adding up the parts of a sum that blocks have left behind, in order.
//
//   out[c] += sum_p partials[p, c]        p ascending, in float
//
// A gradient of D columns whose parts lie in P rows. Oracle: the loop above, in src/ops/partials.rs.
#include "types.cuh"

template <class T> DEVICE void partials_add(T* out, const float* partials, int parts, int d) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= d) return;
    float sum = 0.f;
    for (int p = 0; p < parts; p++) sum += partials[int64_t(p) * d + c];
    out[c] = put<T>(get(out[c]) + sum);
}

KERNEL(partials_add_f32, (128), float* out, const float* partials, int parts, int d) { partials_add(out, partials, parts, d); }
KERNEL(partials_add_bf16, (128), bf16* out, const float* partials, int parts, int d) { partials_add(out, partials, parts, d); }
