// Cross-entropy of rows of logits, and their gradient in place. The products around it are gemm's.
//
//   lse[r] = ln sum_v exp(logits[r, v])        nll[r] = lse[r] - logits[r, targets[r]]
//   dlogits[r, v] = weights[r] (exp(logits[r, v] - lse[r]) - [v = targets[r]])
//
// R rows of V columns, contiguous. A block takes a row. Each thread keeps the maximum and the sum of its columns (the sum is scaled
// again when the maximum grows), so the forward reads a row once; order and scaling depend on V alone. The gradient reads the row a second time and
// writes over it, rounded to T, row r where row r of the logits starts: T is no wider than float, so what an iteration writes covers
// only logits that were read before the barrier in it. A row with NaN, infinity or nothing but minus infinities has lse NaN, as on the CPU; a target outside the row gives nll
// NaN and no gradient of its own.
//
// Bytes per logit: 4 for the forward, 8 + sizeof(T) for the step; an exp or two each. Limiter: memory. 512 threads, 40 registers, 3
// blocks to a multiprocessor: 96 KB under way in the first pass. Oracle: src/ops/xent.rs.
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = 512;
constexpr int AT_ONCE = 4;  // vectors of a thread that are under way before the first is used

// The logarithm of the sum of exponentials of a row, known to all threads.
DEVICE float log_sum_exp(const float* row, int v, bool vector) {
    constexpr int N = Vec<float>::N;
    SHARED(float, scratch, [2][THREADS / WARP]);
    float largest = -INFINITY, sum = 0.f;
    for (int first = threadIdx.x * N; first < v; first += AT_ONCE * THREADS * N) {
        float x[AT_ONCE][N];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) load_part<float>(x[k], row + first + k * THREADS * N, v - first - k * THREADS * N, vector);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int count = v - first - k * THREADS * N;
            float grown = largest;
#pragma unroll
            for (int i = 0; i < N; i++)
                if (i < count) grown = fmaxf(grown, x[k][i]);
            // Where there are only minus infinities so far, the sum stays 0.
            const float base = grown == -INFINITY ? 0.f : grown;
            sum *= expf(largest - base);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (i < count) sum += expf(x[k][i] - base);
            largest = grown;
        }
    }
    const float top = block_max<THREADS>(largest, scratch[0]);
    const float base = top == -INFINITY ? 0.f : top;
    sum = block_sum<THREADS>(sum * expf(largest - base), scratch[1]);
    return top == -INFINITY ? NAN : top + logf(sum);
}

DEVICE float loss(float lse, const float* row, int target, int v) {
    return unsigned(target) < unsigned(v) ? lse - row[target] : NAN;
}

KERNEL(xent_fwd, (512), NULLABLE float* nll, float* lse, const float* logits, NULLABLE const int* targets, int v) {
    const int64_t r = blockIdx.x;
    const float* row = logits + r * v;
    const float sum = log_sum_exp(row, v, aligned16(logits, v));
    if (threadIdx.x == 0) {
        lse[r] = sum;
        if (nll) nll[r] = loss(sum, row, targets[r], v);
    }
}

template <class T>
DEVICE void xent_step(float* nll, float* lse, float* logits, const int* targets, const float* weights, int v) {
    constexpr int N = Vec<T>::N, M = Vec<float>::N;
    const int64_t r = blockIdx.x;
    float* row = logits + r * v;
    T* to = reinterpret_cast<T*>(row);
    const bool vector = aligned16(logits, v);
    const float sum = log_sum_exp(row, v, vector);
    const int target = targets[r];
    const float weight = weights[r];
    if (threadIdx.x == 0) {
        lse[r] = sum;
        nll[r] = loss(sum, row, target, v);
    }
    for (int begin = 0; begin < v; begin += THREADS * N) {
        const int c = begin + threadIdx.x * N;
        float d[N];
#pragma unroll
        for (int half = 0; half < N; half += M) {
            float x[M];
            load_part<float>(x, row + c + half, v - c - half, vector);
#pragma unroll
            for (int i = 0; i < M; i++) {
                const float p = weight * expf(x[i] - sum);
                d[half + i] = c + half + i == target ? p - weight : p;
            }
        }
        __syncthreads();
        store_part<T>(to + c, d, v - c, vector);
    }
}

KERNEL(xent_step_f32, (512), float* nll, float* lse, float* logits, const int* targets, const float* weights, int v) {
    xent_step<float>(nll, lse, logits, targets, weights, v);
}
KERNEL(xent_step_bf16, (512), float* nll, float* lse, float* logits, const int* targets, const float* weights, int v) {
    xent_step<bf16>(nll, lse, logits, targets, weights, v);
}
