// The squared Euclidean norm, in double.
//
//   norm2_parts    partials[b] = sum of x[i]^2 over piece b of PIECE elements
//   norm2_add      out += sum_b partials[b]
//
// x is contiguous, n elements. The first kernel gives a piece to a block: each thread squares and adds its own vectors in ascending order,
// AT_ONCE of them under way at once, then a tree. The second is one block: each thread adds every THREADS-th part, then the same
// tree. So the order depends on n alone. NaN and infinities come through as in any sum, and no float overflows a double.
// Bytes: x once; 32 registers, full occupancy. Limiter: memory (a conversion and a fused multiply-add in double per element).
// Oracle: src/ops/norm2.rs.
#include "packed.cuh"

constexpr int THREADS = 256;
constexpr int PIECE = 8192;
constexpr int AT_ONCE = 4;

// The sum over all threads of a block, known to the first.
DEVICE double block_sum(double v) {
    SHARED(double, scratch, [THREADS / WARP]);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(FULL, v, offset);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    if (threadIdx.x != 0) return v;
    double sum = scratch[0];
#pragma unroll
    for (int w = 1; w < THREADS / WARP; w++) sum += scratch[w];
    return sum;
}

template <bool WHOLE, class T> DEVICE double piece(const T* x, int count) {
    constexpr int N = Vec<T>::N;
    double sum = 0.;
    for (int first = threadIdx.x * N; first < count; first += AT_ONCE * THREADS * N) {
        Packed<T> v[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) v[k] = load_packed<WHOLE>(x + first + k * THREADS * N, count - first - k * THREADS * N);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
#pragma unroll
            for (int i = 0; i < N; i++) sum += double(v[k][i]) * double(v[k][i]);
    }
    return sum;
}
template <class T> DEVICE void norm2_parts(double* partials, const T* x, uint64_t n) {
    const uint64_t start = uint64_t(blockIdx.x) * PIECE;
    const int count = int(min(uint64_t(PIECE), n - start));
    // Only the last piece can have a tail.
    const bool whole = aligned16(x, 0) && count % Vec<T>::N == 0;
    const double sum = block_sum(whole ? piece<true>(x + start, count) : piece<false>(x + start, count));
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

KERNEL(norm2_parts_f32, (256), double* partials, const float* x, uint64_t n) { norm2_parts(partials, x, n); }
KERNEL(norm2_parts_bf16, (256), double* partials, const bf16* x, uint64_t n) { norm2_parts(partials, x, n); }

KERNEL(norm2_add, (256), double* out, const double* partials, int parts) {
    double sum = 0.;
#pragma unroll 8
    for (int p = threadIdx.x; p < parts; p += THREADS) sum += partials[p];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] += sum;
}
