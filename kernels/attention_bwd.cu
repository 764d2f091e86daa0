// The gradients of causal attention over packed sequences with grouped key-value heads, for bf16.
//
//   delta[i, h] = do[i, h] . o[i, h]                 p[i, j] = exp(s[i, j] - lse[i, h])       ds[i, j] = p (do[i, h] . v[j, g] - delta[i, h])
//   dq[i, h] = scale sum_j ds k[j, g]                dk[j, g] = scale sum_{h, i} ds q[i, h]   dv[j, g] = sum_{h, i} p do[i, h]
//
// Shapes as in attention.cu. Two passes, so that every sum has one owner and no sum is shared by blocks; both compute the scores
// anew (7 products of the size of q k^T instead of 5).
//
//   attention_dq    a block takes 64 queries of one head, a warp 16 of them with q and do in registers, and goes over the keys
//                   up to the diagonal in blocks of 64, double-buffered.
//   attention_dkdv  a block takes 64 keys of one key-value head, a warp 16 of them, and goes over the query heads of the group
//                   and, for each, over the blocks of 64 queries from the diagonal on. It computes s^T and dp^T, whose sums are, as they
//                   lie, the left operands of dv += p^T do and dk += ds^T q. q is double-buffered; do loads under dk and s^T.
//
// p and ds are rounded to bf16 between the products; sums, lse and delta are float; results are rounded once. Masks only on
// the diagonal. A row's bits depend on its own sequence alone: blocks lie at multiples of 64 of the sequence.
//
// Cost: 14 T' K flops per query and head, of which 10 are counted as useful. Limiter: shared memory, then mma.sync: for 16 x 64 scores of
// K = 128 dkdv issues 256 mma (400 cycles of the SM's matrix units on H100) and 144 ldmatrix.x4 (576 cycles of its shared memory), dq
// 192 mma (300) and 96 ldmatrix.x4 (384), in 890 and 640 instructions. K = 128: 243 (dq) and 255 (dkdv) registers, 64 and 81 KiB of shared memory:
// two blocks of 128 threads fit an SM of A100 and H100. Oracle: src/ops/attention.rs.
#include "attention.cuh"
#include "reduce.cuh"

constexpr int THREADS = 128, QUERIES = 64, KEYS = 64;

template <int D>
DEVICE void attention_dq(bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k, const bf16* v,
                         const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
                         int q_stride, int k_stride, int v_stride, float scale) {
    constexpr int STAGE = 2 * KEYS * D;  // keys, then values
    SHARED_DYNAMIC(bf16, shared, 128);
    Work work;
    if (!work_at(work, plan, blockIdx.x / heads)) return;
    const int head = blockIdx.x % heads, first = work.queries, lane = threadIdx.x % WARP, mine = threadIdx.x / WARP * 16;
    const int64_t from = work.begin + first;
    const bf16* keys_of = k + int64_t(work.begin) * k_stride + head / group * size;
    const bf16* values_of = v + int64_t(work.begin) * v_stride + head / group * size;

    // Queries come by way of the second stage.
    load_tile<D, QUERIES, THREADS>(shared + STAGE, q + from * q_stride + head * size, q_stride, work.length - first, size);
    load_tile<D, QUERIES, THREADS>(shared + STAGE + QUERIES * D, d_o + from * do_stride + head * size, do_stride, work.length - first, size);
    load_tile<D, KEYS, THREADS>(shared, keys_of, k_stride, work.length, size);
    load_tile<D, KEYS, THREADS>(shared + KEYS * D, values_of, v_stride, work.length, size);
    cp_async_commit();
    // Of rows lane / 4 and 8 below. Past the end p becomes 0.
    float log_total[2], inner[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = mine + lane / 4 + half * 8;
        const bool there = first + row < work.length;
        log_total[half] = there ? lse[(from + row) * lse_stride + head] * LOG2E : INFINITY;
        inner[half] = there ? delta[(from + row) * delta_stride + head] : 0.f;
    }
    cp_async_wait<0>();
    __syncthreads();
    uint32_t query[D / 16][4], d_out[D / 16][4];
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        ldmatrix_x4(query[step], fragment<D>(shared + STAGE, mine, step));
        ldmatrix_x4(d_out[step], fragment<D>(shared + STAGE + QUERIES * D, mine, step));
    }

    float sum[D / 8][4] = {};
    const float factor = scale * LOG2E;
    const int end = min(work.length, first + QUERIES);
    for (int key = 0; key < end; key += KEYS) {
        const bf16* stage = shared + key / KEYS % 2 * STAGE;
        __syncthreads();  // The other stage has been used.
        if (key + KEYS < end) {
            bf16* next = shared + (key / KEYS + 1) % 2 * STAGE;
            load_tile<D, KEYS, THREADS>(next, keys_of + int64_t(key + KEYS) * k_stride, k_stride, work.length - key - KEYS, size);
            load_tile<D, KEYS, THREADS>(next + KEYS * D, values_of + int64_t(key + KEYS) * v_stride, v_stride, work.length - key - KEYS, size);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();  // This stage is there.
        float score[KEYS / 8][4] = {}, d_p[KEYS / 8][4] = {};
        multiply_columns<D>(score, query, stage);
        multiply_columns<D>(d_p, d_out, stage + KEYS * D);
        const int ahead = key + lane % 4 * 2 - (first + mine + lane / 4);  // by how much this lane's first key is later than its query
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float p = ahead + n * 8 + e % 2 > e / 2 * 8 ? 0.f : exp2_approx(fmaf(score[n][e], factor, -log_total[e / 2]));
                score[n][e] = p * (d_p[n][e] - inner[e / 2]);
            }
        multiply_rows<D>(sum, score, stage);
    }
    __syncthreads();
    const int row = first + mine;
    store_rows<D>(dq + (from + mine) * dq_stride + head * size, dq_stride, shared, mine, sum, scale, scale, work.length - row, size);
}

template <int D>
DEVICE void attention_dkdv(bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
                           const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride,
                           int do_stride, int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    SHARED_DYNAMIC(bf16, shared, 128);
    bf16 *const keys = shared, *const values = keys + KEYS * D, *const queries = values + KEYS * D, *const d_outs = queries + 2 * QUERIES * D;
    float* const statistics = reinterpret_cast<float*>(d_outs + QUERIES * D);  // of either buffer of queries: lse, then delta
    Work work;
    if (!work_at(work, plan, blockIdx.x / kv_heads)) return;
    const int kv = blockIdx.x % kv_heads, first = work.keys, lane = threadIdx.x % WARP, mine = threadIdx.x / WARP * 16;
    const int64_t from = work.begin + first;

    auto load_queries = [&](int head, int at, int buffer) {
        const int64_t row = work.begin + at;
        load_tile<D, QUERIES, THREADS>(queries + buffer * QUERIES * D, q + row * q_stride + head * size, q_stride, work.length - at, size);
        // Half of the threads bring lse, the other half delta; zeros past the end make rows that add zeros.
        const int r = threadIdx.x % QUERIES;
        const float* of = threadIdx.x < QUERIES ? lse + (row + r) * lse_stride + head : delta + (row + r) * delta_stride + head;
        cp_async4(statistics + buffer * 2 * QUERIES + threadIdx.x, of, at + r < work.length);
    };
    auto load_d_outs = [&](int head, int at) {
        load_tile<D, QUERIES, THREADS>(d_outs, d_o + int64_t(work.begin + at) * do_stride + head * size, do_stride, work.length - at, size);
    };
    const int last = (kv + 1) * group;  // one past the group's heads
    int head = kv * group, at = first, buffer = 0;
    load_tile<D, KEYS, THREADS>(keys, k + from * k_stride + kv * size, k_stride, work.length - first, size);
    load_tile<D, KEYS, THREADS>(values, v + from * v_stride + kv * size, v_stride, work.length - first, size);
    load_queries(head, at, buffer);
    cp_async_commit();
    load_d_outs(head, at);
    cp_async_commit();

    float sum_k[D / 8][4] = {}, sum_v[D / 8][4] = {};
    const float factor = scale * LOG2E;
    while (head < last) {
        const bf16* query = queries + buffer * QUERIES * D;
        const float* log_total = statistics + buffer * 2 * QUERIES;
        const bool diagonal = at == first;
        buffer ^= 1, at += QUERIES;
        if (at >= work.length) at = first, head++;
        cp_async_wait<1>();
        __syncthreads();  // These queries are there, and those before them have been used.
        if (head < last) load_queries(head, at, buffer);
        cp_async_commit();
        float score[QUERIES / 8][4] = {}, d_p[QUERIES / 8][4] = {};
        multiply_columns<D>(score, keys + mine * D, query);
        cp_async_wait<1>();
        __syncthreads();  // The gradients of their outputs are there.
        multiply_columns<D>(d_p, values + mine * D, d_outs);
        const int ahead = mine + lane / 4 - lane % 4 * 2;  // on the diagonal: by how much this lane's key is later than its first query
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++) {
            const float* column = log_total + n * 8 + lane % 4 * 2;
            const float2 top = *reinterpret_cast<const float2*>(column), inner = *reinterpret_cast<const float2*>(column + QUERIES);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool hidden = diagonal && ahead + e / 2 * 8 > n * 8 + e % 2;
                score[n][e] = hidden ? 0.f : exp2_approx(fmaf(score[n][e], factor, -LOG2E * (e % 2 ? top.y : top.x)));
                d_p[n][e] = score[n][e] * (d_p[n][e] - (e % 2 ? inner.y : inner.x));
            }
        }
        multiply_rows<D>(sum_v, score, d_outs);
        __syncthreads();  // They have been used.
        if (head < last) load_d_outs(head, at);
        cp_async_commit();
        multiply_rows<D>(sum_k, d_p, query);
    }
    const int left = work.length - first - mine;
    store_rows<D>(dk + (from + mine) * dk_stride + kv * size, dk_stride, keys, mine, sum_k, scale, scale, left, size);
    store_rows<D>(dv + (from + mine) * dv_stride + kv * size, dv_stride, values, mine, sum_v, 1.f, 1.f, left, size);
}

// One warp for each row and head. Bytes: 2 K of the storage type each; limiter: memory.
template <class T>
DEVICE void attention_delta(float* delta, const T* d_o, const T* o, int rows, int heads, int size, int delta_stride, int do_stride,
                            int o_stride) {
    constexpr int N = Vec<T>::N;
    const int64_t item = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP, head = item % heads;
    const int64_t row = item / heads;
    if (row >= rows) return;
    d_o += row * do_stride + head * size, o += row * o_stride + head * size;
    const bool vector = aligned16(d_o, do_stride) && aligned16(o, o_stride);
    float sum = 0.f;
    for (int c = lane * N; c < size; c += WARP * N) {
        float a[N], b[N];
        load_part<T>(a, d_o + c, size - c, vector);
        load_part<T>(b, o + c, size - c, vector);
#pragma unroll
        for (int i = 0; i < N; i++) sum = fmaf(a[i], b[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) delta[row * delta_stride + head] = sum;
}

KERNEL(attention_delta_f32, (256), float* delta, const float* d_o, const float* o, int rows, int heads, int size, int delta_stride,
       int do_stride, int o_stride) {
    attention_delta(delta, d_o, o, rows, heads, size, delta_stride, do_stride, o_stride);
}
KERNEL(attention_delta_bf16, (256), float* delta, const bf16* d_o, const bf16* o, int rows, int heads, int size, int delta_stride,
       int do_stride, int o_stride) {
    attention_delta(delta, d_o, o, rows, heads, size, delta_stride, do_stride, o_stride);
}

#define ATTENTION_DQ(D)                                                                                                              \
    attention_dq<D>(dq, d_o, lse, delta, q, k, v, plan, heads, group, size, dq_stride, do_stride, lse_stride, delta_stride, q_stride, \
                    k_stride, v_stride, scale)
#define ATTENTION_DKDV(D)                                                                                                           \
    attention_dkdv<D>(dk, dv, d_o, lse, delta, q, k, v, plan, kv_heads, group, size, dk_stride, dv_stride, do_stride, lse_stride, \
                      delta_stride, q_stride, k_stride, v_stride, scale)

KERNEL(attention_dq_64_bf16, (128, 2), bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
       const bf16* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DQ(64);
}
KERNEL(attention_dq_96_bf16, (128, 2), bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
       const bf16* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DQ(96);
}
KERNEL(attention_dq_128_bf16, (128, 2), bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
       const bf16* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DQ(128);
}
KERNEL(attention_dkdv_64_bf16, (128, 2), bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
       const bf16* k, const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DKDV(64);
}
KERNEL(attention_dkdv_96_bf16, (128, 2), bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
       const bf16* k, const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DKDV(96);
}
KERNEL(attention_dkdv_128_bf16, (128, 2), bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
       const bf16* k, const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_DKDV(128);
}
