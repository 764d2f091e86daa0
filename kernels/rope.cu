// Rotary position embeddings, with the RMSNorm per head that some models put before them.
//
//   forward    n = x rstd w,  rstd = 1 / sqrt(mean_k x[k]^2 + eps)       (n = x without norm)
//              out[i] = n[i] cos - n[i+h] sin      out[i+h] = n[i+h] cos + n[i] sin      h = K/2, i < h
//   backward   the same turn the other way gives dn from dout; with norm then
//              dx = rstd (dn w - x rstd^2 mean_k(dn w x))      dw[k] += sum over tokens and heads of dn x rstd
//
// Queries [T, H*K], keys [T, G*K], rows strided; rstd [T, H+G], queries first; w [K]; tables [P, K/2]; positions [T]. A position
// outside the tables gives NaN. Computed in float, rounded once.
//
// With places [T], keys go to row places[t] of a paged cache instead of row t, and values [T, G*K] are copied to the same row of theirs; a
// place outside the cache leaves its token's out. No two tokens have one place.
//
// A head is the work of `lanes` lanes of a warp, a power of two that the host derives from K: each holds one vector of 16 bytes
// of the lower half and the one of the upper half that turns with it. In the forward such a group takes some neighbouring heads of one
// token, all read before the first is written (so out may be x), and reads the angles once for them. Without norm the backward is the
// forward with the sines negated, in place.
// The backward with norm gives a stretch of tokens to a block (y = 0 for queries, 1 for keys), whose groups take heads in turn and keep
// their part of dw in registers; the block adds its groups in order and leaves one row of partials, which `partials_add` sums in
// order. Sums within a head: a lane's own elements ascending, then a tree over the lanes.
//
// Bytes per element: forward twice the storage type's, backward three times with norm, twice without; tables and weights come from the
// caches. An angle's load waits for its position's, which the backward loads a round ahead. About 12 instructions an element. Limiter:
// memory. For bf16 on sm_90a: 64 registers and 64 KB under way in a multiprocessor, 80 and 48 KB with norm; its backward 96, five blocks,
// 40 KB. Oracle: src/ops/rope.rs.
#include "packed.cuh"

constexpr int THREADS = 128;
constexpr int PLAIN_HEADS = 2, NORM_HEADS = 2;  // heads of a token that a group takes at once

// What all kernels here share: which elements of a head this lane holds.
template <class T> struct Lane {
    int half, col, count;
    __device__ __forceinline__ Lane(int size, int lanes) {
        half = size / 2, col = threadIdx.x % lanes * Vec<T>::N, count = half - col;
    }
};

// The cosines and sines of this lane's pairs; NaN where the position is not in the table.
template <class T> struct Angles {
    static constexpr int N = Vec<T>::N;
    float cos[N], sin[N];

    template <bool WHOLE> __device__ __forceinline__ void load(Rows<const float> cosines, Rows<const float> sines, uint32_t position,
                                                               uint32_t positions, Lane<T> lane) {
        if (position < positions) {
            load_floats<WHOLE>(cos, cosines[position] + lane.col, lane.count);
            load_floats<WHOLE>(sin, sines[position] + lane.col, lane.count);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) cos[i] = sin[i] = NAN;
        }
    }
    // Turns pair i; by the negated angle where `turn` is -1.
    __device__ __forceinline__ void rotate(float& low, float& high, int i, float turn) const {
        const float s = sin[i] * turn, l = low * cos[i] - high * s;
        high = high * cos[i] + low * s, low = l;
    }
};

// The sum over a group of lanes, known to all of them. Every lane of the warp must call it.
DEVICE float group_sum(float v, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(FULL, v, offset);
    return v;
}

enum Side { QUERIES, KEYS, VALUES };
// Rows of one side, and which heads of which token a group takes.
template <class T> struct Task {
    T* out;
    const T* x;
    int heads;  // how many, at most as many as a group takes at once; 0: nothing to do
    int64_t token;
    int first;  // number of the first head on its side
    Side side;
};
// Where keys and values go in a paged cache; without `places` there is none.
template <class T> struct Paged {
    Rows<T> v_out;
    Rows<const T> v;
    const int* places;
    int rows;
};
template <int AT_ONCE, class T>
DEVICE Task<T> task(Rows<T> q_out, Rows<T> k_out, Rows<const T> q, Rows<const T> k, const Paged<T>& paged, int t, int query, int kv, int size,
                    int lanes) {
    const uint32_t per_query = (query + AT_ONCE - 1) / AT_ONCE, per_side = (kv + AT_ONCE - 1) / AT_ONCE;
    const uint32_t per_token = per_query + per_side * (paged.places ? 2 : 1);
    const uint32_t number = (blockIdx.x * THREADS + threadIdx.x) / lanes, found = number / per_token, item = number - found * per_token;
    const Side side = item < per_query ? QUERIES : item < per_query + per_side ? KEYS : VALUES;
    const int first = (item - (side == QUERIES ? 0 : side == KEYS ? per_query : per_query + per_side)) * AT_ONCE;
    bool there = found < uint32_t(t);
    const int64_t token = there ? found : 0;
    int64_t row = token;
    if (paged.places && side != QUERIES) {
        const int place = paged.places[token];
        there = there && uint32_t(place) < uint32_t(paged.rows);
        row = there ? place : 0;
    }
    const int heads = there ? min(AT_ONCE, (side == QUERIES ? query : kv) - first) : 0;
    // Selected, not branched to, or the compiler forgets that they point to global memory.
    const Rows<T> out = side == QUERIES ? q_out : side == KEYS ? k_out : paged.v_out;
    const Rows<const T> x = side == QUERIES ? q : side == KEYS ? k : paged.v;
    return {out[row] + first * size, x[token] + first * size, heads, token, first, side};
}

template <bool WHOLE, class T>
DEVICE void rope_plain(const Task<T>& work, const int* positions, Rows<const float> cosines, Rows<const float> sines, int table_rows,
                       int size, int lanes, float turn) {
    constexpr int N = Vec<T>::N;
    const Lane<T> lane(size, lanes);
    if (work.heads == 0 || lane.count <= 0) return;
    const int position = positions[work.token];  // first, for the angles wait for it
    Packed<T> low[PLAIN_HEADS], high[PLAIN_HEADS];
#pragma unroll
    for (int j = 0; j < PLAIN_HEADS; j++)
        if (j < work.heads) {
            low[j] = load_packed<WHOLE>(work.x + j * size + lane.col, lane.count);
            high[j] = load_packed<WHOLE>(work.x + j * size + lane.half + lane.col, lane.count);
        }
    Angles<T> angles;
    angles.template load<WHOLE>(cosines, sines, position, table_rows, lane);
#pragma unroll
    for (int j = 0; j < PLAIN_HEADS; j++)
        if (j < work.heads) {
            if (work.side != VALUES) {
                float l[N], h[N];
#pragma unroll
                for (int i = 0; i < N; i++) l[i] = low[j][i], h[i] = high[j][i], angles.rotate(l[i], h[i], i, turn);
                low[j] = Packed<T>::of(l), high[j] = Packed<T>::of(h);
            }
            store_packed<WHOLE>(work.out + j * size + lane.col, low[j], lane.count);
            store_packed<WHOLE>(work.out + j * size + lane.half + lane.col, high[j], lane.count);
        }
}

template <bool WHOLE, class T>
DEVICE void rope_norm_fwd(const Task<T>& work, float* rstd, const T* w, const int* positions, Rows<const float> cosines,
                          Rows<const float> sines, int table_rows, int size, int lanes, float eps) {
    constexpr int N = Vec<T>::N;
    const Lane<T> lane(size, lanes);
    Packed<T> low[NORM_HEADS] = {}, high[NORM_HEADS] = {};
#pragma unroll
    for (int j = 0; j < NORM_HEADS; j++)
        if (j < work.heads) {
            low[j] = load_packed<WHOLE>(work.x + j * size + lane.col, lane.count);
            high[j] = load_packed<WHOLE>(work.x + j * size + lane.half + lane.col, lane.count);
        }
    Angles<T> angles;
    angles.template load<WHOLE>(cosines, sines, work.heads > 0 ? positions[work.token] : 0, table_rows, lane);
    const Packed<T> w_low = load_packed<WHOLE>(w + lane.col, lane.count), w_high = load_packed<WHOLE>(w + lane.half + lane.col, lane.count);
#pragma unroll
    for (int j = 0; j < NORM_HEADS; j++) {
        float square = 0.f;
#pragma unroll
        for (int i = 0; i < N; i++) square += low[j][i] * low[j][i] + high[j][i] * high[j][i];
        const float r = 1.f / sqrtf(group_sum(square, lanes) / size + eps);
        if (j < work.heads) {
            if (work.side != VALUES) {
                float l[N], h[N];
#pragma unroll
                for (int i = 0; i < N; i++) {
                    l[i] = low[j][i] * r * w_low[i], h[i] = high[j][i] * r * w_high[i];
                    angles.rotate(l[i], h[i], i, 1.f);
                }
                low[j] = Packed<T>::of(l), high[j] = Packed<T>::of(h);
                if (lane.col == 0) rstd[j] = r;
            }
            store_packed<WHOLE>(work.out + j * size + lane.col, low[j], lane.count);
            store_packed<WHOLE>(work.out + j * size + lane.half + lane.col, high[j], lane.count);
        }
    }
}

// One side, one stretch of tokens: dx in place of d, and sums of dn x rstd, [2][N] for each thread.
template <bool WHOLE, class T>
DEVICE void rope_norm_bwd(float (&sums)[2][Vec<T>::N], Rows<T> d, Rows<const T> x, Rows<const float> rstd, const T* w,
                          const int* positions, Rows<const float> cosines, Rows<const float> sines, int table_rows, int begin, int end,
                          int heads, int size, int lanes) {
    constexpr int N = Vec<T>::N;
    const Lane<T> lane(size, lanes);
    const int groups = THREADS / lanes, tasks = (end - begin) * heads;
    auto token_of = [&](int number) { return begin + min(number, tasks - 1) / heads; };
    int next = tasks > 0 ? positions[token_of(threadIdx.x / lanes)] : 0;
    for (int round = 0; round < tasks; round += groups) {
        const int number = round + threadIdx.x / lanes;
        const int count = number < tasks ? lane.count : 0;  // of the elements that this lane works on
        const int64_t token = token_of(number);
        const int head = min(number, tasks - 1) - int(token - begin) * heads;
        const int position = next;
        next = positions[token_of(number + groups)];  // a round ahead, for the angles wait for it
        T* to = d[token] + head * size + lane.col;
        const T* from = x[token] + head * size + lane.col;
        Packed<T> d_low = load_packed<WHOLE>(to, count), d_high = load_packed<WHOLE>(to + lane.half, count);
        const Packed<T> x_low = load_packed<WHOLE>(from, count), x_high = load_packed<WHOLE>(from + lane.half, count);
        // The weights are read again each time: they lie in the cache, and would cost sixteen registers.
        const Packed<T> w_low = load_packed<WHOLE>(w + lane.col, count), w_high = load_packed<WHOLE>(w + lane.half + lane.col, count);
        const float r = rstd[token][head];
        Angles<T> angles;
        angles.template load<WHOLE>(cosines, sines, position, table_rows, {size, lanes});
        float low[N], high[N], dot = 0.f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            low[i] = d_low[i], high[i] = d_high[i];
            angles.rotate(low[i], high[i], i, -1.f);
            dot += low[i] * w_low[i] * x_low[i] + high[i] * w_high[i] * x_high[i];
        }
        const float c = group_sum(count > 0 ? dot : 0.f, lanes) * r * r / size;
        if (count > 0) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                sums[0][i] += low[i] * x_low[i] * r, sums[1][i] += high[i] * x_high[i] * r;
                low[i] = r * (low[i] * w_low[i] - x_low[i] * c), high[i] = r * (high[i] * w_high[i] - x_high[i] * c);
            }
            store_packed<WHOLE>(to, Packed<T>::of(low), count);
            store_packed<WHOLE>(to + lane.half, Packed<T>::of(high), count);
        }
    }
}

// The block's row of partials: for each column the groups' sums in order.
template <class T> DEVICE void add_groups(float* partials, const float (&sums)[2][Vec<T>::N], int size, int lanes) {
    constexpr int N = Vec<T>::N;
    SHARED(float, all, [2 * N * THREADS]);
    const int width = lanes * N, groups = THREADS / lanes, half = size / 2;
    const int group = threadIdx.x / lanes, col = threadIdx.x % lanes * N;
#pragma unroll
    for (int i = 0; i < N; i++) all[(2 * group) * width + col + i] = sums[0][i], all[(2 * group + 1) * width + col + i] = sums[1][i];
    __syncthreads();
    for (int c = threadIdx.x; c < size; c += THREADS) {
        const int at = c < half ? c : width + c - half;
        float sum = 0.f;
        for (int g = 0; g < groups; g++) sum += all[2 * g * width + at];
        partials[c] = sum;
    }
}

template <class T> DEVICE bool whole(const Paged<T>& of, int half) { return !of.places || (of.v_out.whole(half) && of.v.whole(half)); }

template <class T>
DEVICE void plain(Rows<T> q_out, Rows<T> k_out, Rows<const T> q, Rows<const T> k, const Paged<T>& paged, Rows<const float> cosines,
                  Rows<const float> sines, const int* positions, int t, int table_rows, int query, int kv, int size, int lanes, float turn) {
    const Task<T> work = task<PLAIN_HEADS>(q_out, k_out, q, k, paged, t, query, kv, size, lanes);
    const int half = size / 2;
    if (q_out.whole(half) && k_out.whole(half) && q.whole(half) && k.whole(half) && cosines.whole(half) && sines.whole(half) &&
        whole(paged, half))
        rope_plain<true>(work, positions, cosines, sines, table_rows, size, lanes, turn);
    else rope_plain<false>(work, positions, cosines, sines, table_rows, size, lanes, turn);
}

template <class T>
DEVICE void norm_fwd(Rows<T> q_out, Rows<T> k_out, Rows<float> rstd, Rows<const T> q, Rows<const T> k, const T* q_norm, const T* k_norm,
                     const Paged<T>& paged, Rows<const float> cosines, Rows<const float> sines, const int* positions, int t, int table_rows,
                     int query, int kv, int size, int lanes, float eps) {
    const Task<T> work = task<NORM_HEADS>(q_out, k_out, q, k, paged, t, query, kv, size, lanes);
    const T* w = work.side == QUERIES ? q_norm : k_norm;
    float* r = rstd[work.token] + (work.side == QUERIES ? 0 : query) + work.first;
    const int half = size / 2;
    if (q_out.whole(half) && k_out.whole(half) && q.whole(half) && k.whole(half) && cosines.whole(half) && sines.whole(half) &&
        whole(paged, half) && aligned16(q_norm, 0) && aligned16(k_norm, 0))
        rope_norm_fwd<true>(work, r, w, positions, cosines, sines, table_rows, size, lanes, eps);
    else rope_norm_fwd<false>(work, r, w, positions, cosines, sines, table_rows, size, lanes, eps);
}

template <class T>
DEVICE void norm_bwd(Rows<T> dq, Rows<T> dk, float* q_partials, float* k_partials, Rows<const T> q, Rows<const T> k,
                     Rows<const float> rstd, const T* q_norm, const T* k_norm, Rows<const float> cosines, Rows<const float> sines,
                     const int* positions, int t, int table_rows, int query, int kv, int size, int lanes, int stretch) {
    const bool keys = blockIdx.y == 1;
    const Rows<T> d = keys ? dk : dq;
    const Rows<const T> x = keys ? k : q;
    const T* w = keys ? k_norm : q_norm;
    const int begin = blockIdx.x * stretch, end = min(t, begin + stretch), half = size / 2;
    if (keys) rstd.start += query;
    float sums[2][Vec<T>::N] = {};
    if (d.whole(half) && x.whole(half) && cosines.whole(half) && sines.whole(half) && aligned16(w, 0))
        rope_norm_bwd<true>(sums, d, x, rstd, w, positions, cosines, sines, table_rows, begin, end, keys ? kv : query, size, lanes);
    else rope_norm_bwd<false>(sums, d, x, rstd, w, positions, cosines, sines, table_rows, begin, end, keys ? kv : query, size, lanes);
    add_groups<T>((keys ? k_partials : q_partials) + int64_t(blockIdx.x) * size, sums, size, lanes);
}

KERNEL(rope_fwd_f32, (128), float* q_out, float* k_out, NULLABLE float* v_out, const float* q, const float* k, NULLABLE const float* v,
       NULLABLE const int* places, const float* cos, const float* sin, const int* positions, int t, int table_rows, int rows, int query, int kv,
       int size, int q_out_stride, int k_out_stride, int v_out_stride, int q_stride, int k_stride, int v_stride, int cos_stride, int sin_stride,
       int lanes, float turn) {
    plain<float>({q_out, q_out_stride}, {k_out, k_out_stride}, {q, q_stride}, {k, k_stride},
               {{v_out, v_out_stride}, {v, v_stride}, places, rows}, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query, kv,
               size, lanes, turn);
}
KERNEL(rope_fwd_bf16, (128, 8), bf16* q_out, bf16* k_out, NULLABLE bf16* v_out, const bf16* q, const bf16* k, NULLABLE const bf16* v,
       NULLABLE const int* places, const float* cos, const float* sin, const int* positions, int t, int table_rows, int rows, int query, int kv,
       int size, int q_out_stride, int k_out_stride, int v_out_stride, int q_stride, int k_stride, int v_stride, int cos_stride, int sin_stride,
       int lanes, float turn) {
    plain<bf16>({q_out, q_out_stride}, {k_out, k_out_stride}, {q, q_stride}, {k, k_stride},
               {{v_out, v_out_stride}, {v, v_stride}, places, rows}, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query, kv,
               size, lanes, turn);
}
KERNEL(rope_norm_fwd_f32, (128), float* q_out, float* k_out, NULLABLE float* v_out, float* rstd, const float* q, const float* k,
       NULLABLE const float* v, NULLABLE const int* places, const float* q_norm, const float* k_norm, const float* cos, const float* sin,
       const int* positions, int t, int table_rows, int rows, int query, int kv, int size, int q_out_stride, int k_out_stride, int v_out_stride,
       int rstd_stride, int q_stride, int k_stride, int v_stride, int cos_stride, int sin_stride, int lanes, float eps) {
    norm_fwd<float>({q_out, q_out_stride}, {k_out, k_out_stride}, {rstd, rstd_stride}, {q, q_stride}, {k, k_stride}, q_norm, k_norm,
                  {{v_out, v_out_stride}, {v, v_stride}, places, rows}, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query,
                  kv, size, lanes, eps);
}
KERNEL(rope_norm_fwd_bf16, (128), bf16* q_out, bf16* k_out, NULLABLE bf16* v_out, float* rstd, const bf16* q, const bf16* k,
       NULLABLE const bf16* v, NULLABLE const int* places, const bf16* q_norm, const bf16* k_norm, const float* cos, const float* sin,
       const int* positions, int t, int table_rows, int rows, int query, int kv, int size, int q_out_stride, int k_out_stride, int v_out_stride,
       int rstd_stride, int q_stride, int k_stride, int v_stride, int cos_stride, int sin_stride, int lanes, float eps) {
    norm_fwd<bf16>({q_out, q_out_stride}, {k_out, k_out_stride}, {rstd, rstd_stride}, {q, q_stride}, {k, k_stride}, q_norm, k_norm,
                  {{v_out, v_out_stride}, {v, v_stride}, places, rows}, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query,
                  kv, size, lanes, eps);
}
KERNEL(rope_norm_bwd_f32, (128), float* dq, float* dk, float* q_partials, float* k_partials, const float* q, const float* k,
       const float* rstd, const float* q_norm, const float* k_norm, const float* cos, const float* sin, const int* positions, int t,
       int table_rows, int query, int kv, int size, int dq_stride, int dk_stride, int q_stride, int k_stride, int rstd_stride,
       int cos_stride, int sin_stride, int lanes, int stretch) {
    norm_bwd<float>({dq, dq_stride}, {dk, dk_stride}, q_partials, k_partials, {q, q_stride}, {k, k_stride}, {rstd, rstd_stride}, q_norm,
                    k_norm, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query, kv, size, lanes, stretch);
}
KERNEL(rope_norm_bwd_bf16, (128), bf16* dq, bf16* dk, float* q_partials, float* k_partials, const bf16* q, const bf16* k,
       const float* rstd, const bf16* q_norm, const bf16* k_norm, const float* cos, const float* sin, const int* positions, int t,
       int table_rows, int query, int kv, int size, int dq_stride, int dk_stride, int q_stride, int k_stride, int rstd_stride,
       int cos_stride, int sin_stride, int lanes, int stretch) {
    norm_bwd<bf16>({dq, dq_stride}, {dk, dk_stride}, q_partials, k_partials, {q, q_stride}, {k, k_stride}, {rstd, rstd_stride}, q_norm,
                   k_norm, {cos, cos_stride}, {sin, sin_stride}, positions, t, table_rows, query, kv, size, lanes, stretch);
}
