// Causal attention over packed sequences by plain fused multiply-adds: for f32, and for bf16 in shapes that the matrix units do not
// take (head sizes that are no multiple of 8 or beyond 128, tensors that are not aligned to 16 bytes). Formulas in attention.cu and
// attention_bwd.cu. Any head size up to 256, any strides.
//
// A block takes 32 queries of one head (dkdv: 32 keys of one key-value head) and goes over blocks of 32 keys (of 32 queries of each
// head of the group). Tiles lie in shared memory as float, rows padded by 16 bytes against bank conflicts. Of a square of scores a
// thread computes 2 by 4; of a row of sums, which eight threads share, four columns in 32. Scores are one chain of multiply-adds over K, with q scaled
// first, as on the CPU, so that they have the CPU's bits; everything stays in float and is rounded once.
//
// Flops: 4 K for each query, head and key (forward), 6 K (dq), 8 K (dkdv), of which the masked ones are left out; bytes: a tile's keys
// once for 32 queries, from L2. Limiter: multiply-adds (of scores: 6 shared loads of 16 bytes for 32 of them a thread). K = 128: 102
// (fwd; 126 where keys are listed), 108 (dq), 138 (dkdv) registers, 54, 70 and 75 KiB of shared memory: 4, 3 and 3 blocks an SM of H100. Oracle: src/ops/attention.rs.
#include "attention.cuh"

constexpr int THREADS = 128, TILE = 32, PITCH = TILE + 4;  // PITCH: of a square of scores

// This thread's place: rows 2 `down` and the next of a tile, columns `across` + 8 j of a square, columns 4 `across` + 32 c of a row.
struct Place {
    int down, across;
};
DEVICE Place place() { return {int(threadIdx.x) / 8, int(threadIdx.x) % 8}; }

// Floats from one row of a tile to the next: whole vectors, and 16 bytes more.
DEVICE int pitch_of(int size) { return (size + 3) / 4 * 4 + 4; }

// A tile of `rows` rows of a head as float, times a factor; zeros for what is missing.
template <class T> DEVICE void load_floats(float* tile, const T* from, int stride, int rows, int size, float factor) {
    constexpr int N = Vec<T>::N;
    const bool vector = aligned16(from, stride);
    const int pitch = pitch_of(size), across = (size + N - 1) / N;
    for (int i = threadIdx.x; i < TILE * across; i += THREADS) {
        const int row = i / across, c = i % across * N;
        float x[N];
        load_part<T>(x, from + int64_t(row) * stride + c, row < rows ? size - c : 0, vector);
#pragma unroll
        for (int e = 0; e < N; e += 4)
            *reinterpret_cast<float4*>(tile + row * pitch + c + e) =
                make_float4(x[e] * factor, x[e + 1] * factor, x[e + 2] * factor, x[e + 3] * factor);
    }
}

// The same for rows that a list names; zeros also where a name is no row of the tensor's `limit`.
template <class T> DEVICE void load_listed_floats(float* tile, const T* from, int stride, const int* places, int limit, int rows, int size) {
    constexpr int N = Vec<T>::N;
    const bool vector = aligned16(from, stride);
    const int pitch = pitch_of(size), across = (size + N - 1) / N;
    for (int i = threadIdx.x; i < TILE * across; i += THREADS) {
        const int row = i / across, c = i % across * N, place = row < rows ? places[row] : -1;
        const bool there = place >= 0 && place < limit;
        float x[N];
        load_part<T>(x, from + int64_t(there ? place : 0) * stride + c, there ? size - c : 0, vector);
#pragma unroll
        for (int e = 0; e < N; e += 4) *reinterpret_cast<float4*>(tile + row * pitch + c + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
    }
}

// d[i][j] = a[2 down + i, :] . b[across + 8 j, :], in ascending order.
DEVICE void cross(float (&d)[2][4], const float* a, const float* b, int size) {
    const auto [down, across] = place();
    const int pitch = pitch_of(size);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) d[i][j] = 0.f;
    for (int c = 0; c < size; c += 4) {
        float x[2][4], y[4];
#pragma unroll
        for (int i = 0; i < 2; i++) Vec<float>::load(x[i], a + (2 * down + i) * pitch + c);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            Vec<float>::load(y, b + (across + 8 * j) * pitch + c);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) d[i][j] = fmaf(x[i][e], y[e], d[i][j]);
        }
    }
}

// sum[i][c] += weights[2 down + i, :] b[:, 4 across + 32 c ..], in ascending order.
template <int D> DEVICE void accumulate(float (&sum)[2][D / 32][4], const float* weights, const float* b, int size) {
    const auto [down, across] = place();
    const int pitch = pitch_of(size);
#pragma unroll 1
    for (int j = 0; j < TILE; j += 4) {
        float w[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) Vec<float>::load(w[i], weights + (2 * down + i) * PITCH + j);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int c = 0; c < D / 32; c++) {
                const int column = 4 * across + 32 * c;
                if (column < size) {
                    float x[4];
                    Vec<float>::load(x, b + (j + e) * pitch + column);
#pragma unroll
                    for (int i = 0; i < 2; i++)
#pragma unroll
                        for (int f = 0; f < 4; f++) sum[i][c][f] = fmaf(w[i][e], x[f], sum[i][c][f]);
                }
            }
    }
}

// One row of sums times a factor, rounded.
template <int D, class T> DEVICE void store_row(T* to, const float (&sum)[D / 32][4], float factor, int size) {
    const int across = place().across;
#pragma unroll
    for (int c = 0; c < D / 32; c++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (4 * across + 32 * c + e < size) to[4 * across + 32 * c + e] = put<T>(sum[c][e] * factor);
}

// The largest and the sum over the eight threads that share a row.
DEVICE float row8_max(float v) {
    v = row_max(v);
    return fmaxf(v, __shfl_xor_sync(FULL, v, 4));
}
DEVICE float row8_sum(float v) {
    v = row_sum(v);
    return v + __shfl_xor_sync(FULL, v, 4);
}

template <int D, bool LISTED, class T>
DEVICE void plain_attention_fwd(T* o, float* lse, const T* q, const T* k, const T* v, const int* plan, const int* places, int limit, int heads,
                                int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    SHARED_DYNAMIC(float, shared, 128);
    const int floats = TILE * pitch_of(size);
    float *const queries = shared, *const keys = queries + floats, *const values = keys + floats, *const weights = values + floats;
    Work work;
    if (!work_at(work, plan, blockIdx.x / heads)) return;
    const int head = blockIdx.x % heads, first = work.queries;
    const auto [down, across] = place();
    const int64_t from = int64_t(work.begin) + first;
    k += int64_t(LISTED ? 0 : work.begin) * k_stride + head / group * size;
    v += int64_t(LISTED ? 0 : work.begin) * v_stride + head / group * size;
    auto load = [&](float* tile, const T* rows, int stride, int key) {
        if constexpr (LISTED) load_listed_floats(tile, rows, stride, places + work.keys + key, limit, work.length - key, size);
        else load_floats(tile, rows + int64_t(key) * stride, stride, work.length - key, size, 1.f);
    };
    load_floats(queries, q + from * q_stride + head * size, q_stride, work.length - first, size, scale);

    float sum[2][D / 32][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    // Blocks of queries lie at multiples of TILE too, but where keys are listed.
    const int last = LISTED ? min(work.length, first + TILE) - 1 : first;
    for (int key = 0; key <= last; key += TILE) {
        __syncthreads();  // The tiles before have been used.
        load(keys, k, k_stride, key);
        load(values, v, v_stride, key);
        __syncthreads();
        float score[2][4];
        cross(score, queries, keys, size);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = 2 * down + i;
            float largest = -INFINITY;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (key + across + 8 * j > first + row) score[i][j] = -INFINITY;
                largest = fmaxf(largest, score[i][j]);
            }
            const float now = fmaxf(top[i], row8_max(largest)), shrink = exp2_approx((top[i] - now) * LOG2E);
            top[i] = now, total[i] *= shrink;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[i][j] = exp2_approx((score[i][j] - now) * LOG2E);
                total[i] += score[i][j];
                weights[row * PITCH + across + 8 * j] = score[i][j];
            }
#pragma unroll
            for (int c = 0; c < D / 32; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[i][c][e] *= shrink;
        }
        __syncwarp();  // A warp reads the rows of weights that it wrote.
        accumulate<D>(sum, weights, values, size);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float all = row8_sum(total[i]);
        const int row = 2 * down + i;
        if (first + row < work.length) {
            store_row<D>(o + (from + row) * o_stride + head * size, sum[i], 1.f / all, size);
            if (across == 0) lse[(from + row) * lse_stride + head] = top[i] + logf(all);
        }
    }
}

template <int D, class T>
DEVICE void plain_attention_dq(T* dq, const T* d_o, const float* lse, const float* delta, const T* q, const T* k, const T* v,
                               const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride,
                               int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    SHARED_DYNAMIC(float, shared, 128);
    const int floats = TILE * pitch_of(size);
    float *const queries = shared, *const d_outs = queries + floats, *const keys = d_outs + floats, *const values = keys + floats;
    float* const weights = values + floats;
    Work work;
    if (!work_at(work, plan, blockIdx.x / heads)) return;
    const int head = blockIdx.x % heads, first = work.queries;
    const auto [down, across] = place();
    const int64_t from = work.begin + first;
    k += int64_t(work.begin) * k_stride + head / group * size;
    v += int64_t(work.begin) * v_stride + head / group * size;
    load_floats(queries, q + from * q_stride + head * size, q_stride, work.length - first, size, scale);
    load_floats(d_outs, d_o + from * do_stride + head * size, do_stride, work.length - first, size, 1.f);
    float log_total[2], inner[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const bool there = first + 2 * down + i < work.length;
        log_total[i] = there ? lse[(from + 2 * down + i) * lse_stride + head] : INFINITY;
        inner[i] = there ? delta[(from + 2 * down + i) * delta_stride + head] : 0.f;
    }
    float sum[2][D / 32][4] = {};
    for (int key = 0; key <= first; key += TILE) {
        __syncthreads();  // The tiles before have been used.
        load_floats(keys, k + int64_t(key) * k_stride, k_stride, work.length - key, size, 1.f);
        load_floats(values, v + int64_t(key) * v_stride, v_stride, work.length - key, size, 1.f);
        __syncthreads();
        float score[2][4], d_p[2][4];
        cross(score, queries, keys, size);
        cross(d_p, d_outs, values, size);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const bool hidden = key + across + 8 * j > first + 2 * down + i;
                const float p = hidden ? 0.f : exp2_approx((score[i][j] - log_total[i]) * LOG2E);
                weights[(2 * down + i) * PITCH + across + 8 * j] = p * (d_p[i][j] - inner[i]);
            }
        __syncwarp();  // A warp reads the rows of weights that it wrote.
        accumulate<D>(sum, weights, keys, size);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (first + 2 * down + i < work.length) store_row<D>(dq + (from + 2 * down + i) * dq_stride + head * size, sum[i], scale, size);
}

template <int D, class T>
DEVICE void plain_attention_dkdv(T* dk, T* dv, const T* d_o, const float* lse, const float* delta, const T* q, const T* k, const T* v,
                                 const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
                                 int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    SHARED_DYNAMIC(float, shared, 128);
    const int floats = TILE * pitch_of(size);
    float *const keys = shared, *const values = keys + floats, *const queries = values + floats, *const d_outs = queries + floats;
    float *const to_v = d_outs + floats, *const to_k = to_v + TILE * PITCH;  // p^T and ds^T
    Work work;
    if (!work_at(work, plan, blockIdx.x / kv_heads)) return;
    const int kv = blockIdx.x % kv_heads, first = work.keys;
    const auto [down, across] = place();
    const int64_t from = work.begin + first;
    load_floats(keys, k + from * k_stride + kv * size, k_stride, work.length - first, size, 1.f);
    load_floats(values, v + from * v_stride + kv * size, v_stride, work.length - first, size, 1.f);
    float sum_k[2][D / 32][4] = {}, sum_v[2][D / 32][4] = {};
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        for (int query = first; query < work.length; query += TILE) {
            const int64_t row = work.begin + query;
            __syncthreads();  // The tiles before have been used.
            load_floats(queries, q + row * q_stride + head * size, q_stride, work.length - query, size, scale);
            load_floats(d_outs, d_o + row * do_stride + head * size, do_stride, work.length - query, size, 1.f);
            __syncthreads();
            float score[2][4], d_p[2][4];
            cross(score, keys, queries, size);
            cross(d_p, values, d_outs, size);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int r = across + 8 * j;
                const bool there = query + r < work.length;
                const float log_total = there ? lse[(row + r) * lse_stride + head] : INFINITY;
                const float inner = there ? delta[(row + r) * delta_stride + head] : 0.f;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const bool hidden = first + 2 * down + i > query + r;
                    const float p = hidden ? 0.f : exp2_approx((score[i][j] - log_total) * LOG2E);
                    to_v[(2 * down + i) * PITCH + r] = p;
                    to_k[(2 * down + i) * PITCH + r] = p * (d_p[i][j] - inner);
                }
            }
            __syncwarp();  // A warp reads the rows of weights that it wrote.
            accumulate<D>(sum_v, to_v, d_outs, size);
            accumulate<D>(sum_k, to_k, queries, size);  // These are scaled.
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (first + 2 * down + i < work.length) {
            store_row<D>(dk + (from + 2 * down + i) * dk_stride + kv * size, sum_k[i], 1.f, size);
            store_row<D>(dv + (from + 2 * down + i) * dv_stride + kv * size, sum_v[i], 1.f, size);
        }
}

#define PLAIN_FWD(D)                                                                                                                      \
    plain_attention_fwd<D, false>(o, lse, q, k, v, plan, nullptr, 0, heads, group, size, o_stride, lse_stride, q_stride, k_stride, v_stride, \
                                  scale)
#define PLAIN_GATHER_FWD(D)                                                                                                               \
    plain_attention_fwd<D, true>(o, lse, q, k, v, plan, places, limit, heads, group, size, o_stride, lse_stride, q_stride, k_stride, v_stride, \
                                 scale)
#define PLAIN_DQ(D)                                                                                                                       \
    plain_attention_dq<D>(dq, d_o, lse, delta, q, k, v, plan, heads, group, size, dq_stride, do_stride, lse_stride, delta_stride, q_stride, \
                          k_stride, v_stride, scale)
#define PLAIN_DKDV(D)                                                                                                                   \
    plain_attention_dkdv<D>(dk, dv, d_o, lse, delta, q, k, v, plan, kv_heads, group, size, dk_stride, dv_stride, do_stride, lse_stride, \
                            delta_stride, q_stride, k_stride, v_stride, scale)

KERNEL(attention_fwd_plain_128_f32, (128), float* o, float* lse, const float* q, const float* k, const float* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_FWD(128);
}
KERNEL(attention_fwd_plain_128_bf16, (128), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_FWD(128);
}
KERNEL(attention_fwd_plain_256_f32, (128, 2), float* o, float* lse, const float* q, const float* k, const float* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_FWD(256);
}
KERNEL(attention_fwd_plain_256_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_FWD(256);
}
KERNEL(attention_gather_fwd_plain_128_f32, (128), float* o, float* lse, const float* q, const float* k, const float* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    PLAIN_GATHER_FWD(128);
}
KERNEL(attention_gather_fwd_plain_128_bf16, (128, 4), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    PLAIN_GATHER_FWD(128);
}
KERNEL(attention_gather_fwd_plain_256_f32, (128, 2), float* o, float* lse, const float* q, const float* k, const float* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    PLAIN_GATHER_FWD(256);
}
KERNEL(attention_gather_fwd_plain_256_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    PLAIN_GATHER_FWD(256);
}
KERNEL(attention_dq_plain_128_f32, (128), float* dq, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
       const float* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DQ(128);
}
KERNEL(attention_dq_plain_128_bf16, (128), bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
       const bf16* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DQ(128);
}
KERNEL(attention_dq_plain_256_f32, (128, 2), float* dq, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
       const float* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DQ(256);
}
KERNEL(attention_dq_plain_256_bf16, (128, 2), bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
       const bf16* v, const int* plan, int heads, int group, int size, int dq_stride, int do_stride, int lse_stride, int delta_stride,
       int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DQ(256);
}
KERNEL(attention_dkdv_plain_128_f32, (128), float* dk, float* dv, const float* d_o, const float* lse, const float* delta, const float* q,
       const float* k, const float* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DKDV(128);
}
KERNEL(attention_dkdv_plain_128_bf16, (128), bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
       const bf16* k, const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DKDV(128);
}
KERNEL(attention_dkdv_plain_256_f32, (128, 2), float* dk, float* dv, const float* d_o, const float* lse, const float* delta, const float* q,
       const float* k, const float* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DKDV(256);
}
KERNEL(attention_dkdv_plain_256_bf16, (128, 2), bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
       const bf16* k, const bf16* v, const int* plan, int kv_heads, int group, int size, int dk_stride, int dv_stride, int do_stride,
       int lse_stride, int delta_stride, int q_stride, int k_stride, int v_stride, float scale) {
    PLAIN_DKDV(256);
}
