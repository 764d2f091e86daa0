// Causal attention over packed sequences with grouped key-value heads: the forward pass for bf16, and the list of work.
//
//   s[i, j] = scale q[i, h] . k[j, g]     j <= i        o[i, h] = sum_j exp(s - lse) v[j, g]     lse[i, h] = ln sum_j exp(s[i, j])
//
// q, o [T, H*K]; k, v [T, G*K]; lse [T, H]; all rows may be strided. K is a multiple of 8 up to 128, everything is aligned to 16
// bytes; other shapes and f32 are attention_plain.cu's.
//
// A block takes 128 queries of one head; a warp 32 of them, so that each fragment of keys or values feeds four products. It
// goes over its keys in blocks of 64 in ascending order, the online softmax as in FlashAttention-2: scores and sums in float in
// registers, probabilities rounded to bf16 between the two products, exponentials as 2^x with scale * log2(e) folded in. Keys
// load while the values' product runs, and the other way round. Only blocks on the diagonal are masked. A row's bits depend on
// its own sequence up to it: blocks of keys lie at multiples of 64 of the sequence, and a masked key adds exact zeros.
//
// Keys and values lie where their queries do, or (attention_gather) in rows of other tensors that a list names for each sequence, whose
// queries are then its last positions; `begin` is the row of q that position 0 has or would have. A block of queries may then start
// anywhere: a block of keys that is all later than a query adds exact zeros to its sums, times exactly one.
//
// Blocks start in the order of falling cost (`attention_plan`), heads fastest, so that the heads of a group share keys in L2.
//
// Cost: 4 T' K flops per query and head (T' = keys seen, half a sequence on average); bytes q + o + (k + v) once a query block, mostly from L2.
// Limiter: the matrix units through mma.sync, then shared memory: for 32 x 64 scores of K = 128 a warp issues 256 mma (about 400
// cycles of the SM's matrix units on H100) and 80 ldmatrix.x4 (320 cycles of its shared memory); some 880 instructions in all away from
// the diagonal, of 1650 that its scheduler has time for. 255 registers (K = 128), 64 KiB of shared memory: two blocks of 128 threads
// fit an SM. Oracle: src/ops/attention.rs.
//
// attention_gather costs the same flops for its pairs of a query and a key, and 4 more bytes a key for the list. A key's row is 2 K
// bytes of its own, whole sectors, so rows that lie apart cost the bytes of rows that do not; what sequences share comes from L2.
// Registers: 212 (K = 64), 241 to 244 (96), 255 (128), without spills; attention_gather_plan 32. Limiter: as above where a
// sequence has many queries. Of a few queries of many keys (n queries of each of H/G heads for 4 K bytes of keys and values: n H/G flops a
// byte) memory's bandwidth, below about 300 flops a byte on H100, and query blocks that are not full.
#include "attention.cuh"

constexpr int THREADS = 128, QUERIES = 128, KEYS = 64;

template <int D, bool LISTED>
DEVICE void attention_fwd(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, const int* places, int limit,
                          int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    SHARED_DYNAMIC(bf16, shared, 128);
    bf16 *const queries = shared, *const keys = queries + QUERIES * D, *const values = keys + KEYS * D;
    Work work;
    if (!work_at(work, plan, blockIdx.x / heads)) return;
    const int head = blockIdx.x % heads, first = work.queries;
    q += int64_t(work.begin + first) * q_stride + head * size;
    k += int64_t(LISTED ? 0 : work.begin) * k_stride + head / group * size;
    v += int64_t(LISTED ? 0 : work.begin) * v_stride + head / group * size;
    if constexpr (LISTED) places += work.keys;
    auto load = [&](bf16* tile, const bf16* from, int stride, int key) {
        if constexpr (LISTED) load_listed<D, KEYS, THREADS>(tile, from, stride, places + key, limit, work.length - key, size);
        else load_tile<D, KEYS, THREADS>(tile, from + int64_t(key) * stride, stride, work.length - key, size);
    };

    load_tile<D, QUERIES, THREADS>(queries, q, q_stride, work.length - first, size);
    load(keys, k, k_stride, 0);
    cp_async_commit();

    const int lane = threadIdx.x % WARP, mine = threadIdx.x / WARP * 32;
    const int row = first + mine;  // the warp's first query
    const float factor = scale * LOG2E;
    float sum[2][D / 8][4] = {};
    // Of rows lane / 4 and 8 below in both halves of 16 rows: the largest score so far times `factor`, and the sum of
    // exponentials over this lane's columns.
    float top[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}}, total[2][2] = {};

    const int end = min(work.length, first + QUERIES);
    for (int key = 0; key < end; key += KEYS) {
        const bool seen = key < row + 32 && row < work.length;  // by any query of this warp
        cp_async_wait<0>();
        __syncthreads();  // These keys are there, and the values before them have been used.
        load(values, v, v_stride, key);
        cp_async_commit();

        float score[2][KEYS / 8][4] = {};
        if (seen) {
#pragma unroll
            for (int step = 0; step < D / 16; step++) {
                uint32_t left[2][4];
                ldmatrix_x4(left[0], fragment<D>(queries, mine, step));
                ldmatrix_x4(left[1], fragment<D>(queries, mine + 16, step));
#pragma unroll
                for (int n = 0; n < KEYS / 8; n += 2) {
                    uint32_t right[4];
                    ldmatrix_x4(right, right_fragment<D>(keys, n * 8, step));
#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        mma_bf16(score[m][n], left[m], right[0], right[1]);
                        mma_bf16(score[m][n + 1], left[m], right[2], right[3]);
                    }
                }
            }
        }
        cp_async_wait<0>();
        __syncthreads();  // The values are there, and the keys have been used.
        if (key + KEYS < end) load(keys, k, k_stride, key + KEYS);
        cp_async_commit();
        if (!seen) continue;

        if (key + KEYS > row + 1) {
            const int ahead = key + lane % 4 * 2 - (row + lane / 4);  // by how much this lane's first key is later than its query
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (ahead + n * 8 + e % 2 > m * 16 + e / 2 * 8) score[m][n][e] = -INFINITY;
        }
        uint32_t weights[2][KEYS / 16][4];  // the rounded exponentials, as left operands
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float shrink[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float largest = -INFINITY;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) largest = fmaxf(largest, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
                const float now = fmaxf(top[m][half], row_max(largest) * factor);
                shrink[half] = exp2_approx(top[m][half] - now);
                top[m][half] = now;
                total[m][half] *= shrink[half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++) {
                        score[m][n][e] = exp2_approx(fmaf(score[m][n][e], factor, -now));
                        total[m][half] += score[m][n][e];
                    }
            }
#pragma unroll
            for (int step = 0; step < KEYS / 16; step++) as_operand(weights[m][step], score[m], step);
            // Most blocks bring no new largest score; times 1 would change nothing.
            if (__any_sync(FULL, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) sum[m][n][e] *= shrink[e / 2];
            }
        }
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                uint32_t right[4];
                ldmatrix_x4_trans(right, fragment<D>(values, step * 16, n / 2));
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_bf16(sum[m][n], weights[m][step], right[0], right[1]);
                    mma_bf16(sum[m][n + 1], weights[m][step], right[2], right[3]);
                }
            }
        }
    }

    // Read again: what the loop does not need would cost it registers.
    if (!work_at(work, plan, blockIdx.x / heads) || row >= work.length) return;
    o += int64_t(work.begin + row) * o_stride + head * size;
    lse += int64_t(work.begin + row) * lse_stride + head;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const int left = work.length - row - m * 16;  // queries from here on
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float all = row_sum(total[m][half]);
            const int r = lane / 4 + half * 8;
            inverse[half] = 1.f / all;
            if (lane % 4 == 0 && r < left) lse[int64_t(m * 16 + r) * lse_stride] = top[m][half] * LN2 + logf(all);
        }
        store_rows<D>(o + int64_t(m) * 16 * o_stride, o_stride, queries, mine + m * 16, sum[m], inverse[0], inverse[1], left, size);
    }
}

// The blocks of `rows` positions of all sequences in the order of falling index. A warp finds one: the number of blocks with index x or
// more falls with x, so x is found by bisection; of the sequences that have a block x, it is the one of its rank. One lane calls
// `found` with the sequence and the block; lane 0 with sequence -1 where there are no more blocks.
template <class Blocks, class Found> DEVICE void find_block(int entry, int sequences, int most, Blocks blocks_of, Found found) {
    const int lane = threadIdx.x % WARP;
    auto count_at = [&](int b) { return b < sequences ? blocks_of(b) : 0; };
    auto from = [&](int x) {  // blocks with this index or a larger one
        int count = 0;
        for (int b = lane; b < sequences; b += WARP) count += max(count_at(b) - x, 0);
        return __reduce_add_sync(FULL, count);
    };
    if (entry >= from(0)) {
        if (lane == 0) found(-1, 0);
        return;
    }
    int low = 0, high = most;  // from(low) > entry >= from(high)
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (from(middle) > entry) low = middle;
        else high = middle;
    }
    int rank = entry - from(high);
    for (int first = 0; first < sequences; first += WARP) {
        const bool has = count_at(first + lane) > low;
        const uint32_t all = __ballot_sync(FULL, has);
        if (has && __popc(all & ((1u << lane) - 1)) == rank) found(first + lane, low);
        rank -= __popc(all);
        if (rank < 0) return;
    }
}

// `slots` entries of (first row, length, first query, first key), length 0 where there are no more.
// Offsets that do not ascend from 0 to `tokens` leave rows out; they never lead outside the tensors.
KERNEL(attention_plan, (128), int* plan, const int* starts, int sequences, int tokens, int rows, int slots) {
    const int entry = (blockIdx.x * 128 + threadIdx.x) / WARP;
    if (entry >= slots) return;
    auto begin_of = [&](int b) { return min(max(starts[b], 0), tokens); };
    auto blocks_of = [&](int b) { return (max(begin_of(b + 1) - begin_of(b), 0) + rows - 1) / rows; };
    plan += int64_t(entry) * 4;
    find_block(entry, sequences, (tokens + rows - 1) / rows, blocks_of, [&](int b, int block) {
        const int begin = b < 0 ? 0 : begin_of(b);
        plan[0] = begin, plan[1] = b < 0 ? 0 : begin_of(b + 1) - begin;
        plan[2] = block * rows, plan[3] = b < 0 ? 0 : (blocks_of(b) - 1 - block) * rows;
    });
}

// The same where keys are listed: (row of q of position 0, keys, first query, first place). `listed` places there are; a sequence with
// fewer keys than queries has length 0.
KERNEL(attention_gather_plan, (128), int* plan, const int* starts, const int* key_starts, int sequences, int tokens, int listed, int rows,
       int slots) {
    const int entry = (blockIdx.x * 128 + threadIdx.x) / WARP;
    if (entry >= slots) return;
    auto begin_of = [&](int b) { return min(max(starts[b], 0), tokens); };
    auto keys_from = [&](int b) { return min(max(key_starts[b], 0), listed); };
    auto blocks_of = [&](int b) { return (max(begin_of(b + 1) - begin_of(b), 0) + rows - 1) / rows; };
    plan += int64_t(entry) * 4;
    find_block(entry, sequences, (tokens + rows - 1) / rows, blocks_of, [&](int b, int block) {
        const int begin = b < 0 ? 0 : begin_of(b), queries = b < 0 ? 0 : begin_of(b + 1) - begin;
        const int from = b < 0 ? 0 : keys_from(b), length = b < 0 ? 0 : keys_from(b + 1) - from, before = length - queries;
        plan[0] = begin - before, plan[1] = before < 0 ? 0 : length;
        plan[2] = before + block * rows, plan[3] = from;
    });
}

#define ATTENTION_FWD(D)                                                                                                             \
    attention_fwd<D, false>(o, lse, q, k, v, plan, nullptr, 0, heads, group, size, o_stride, lse_stride, q_stride, k_stride, v_stride, scale)
#define ATTENTION_GATHER_FWD(D)                                                                                                       \
    attention_fwd<D, true>(o, lse, q, k, v, plan, places, limit, heads, group, size, o_stride, lse_stride, q_stride, k_stride, v_stride, scale)

KERNEL(attention_fwd_64_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_FWD(64);
}
KERNEL(attention_fwd_96_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_FWD(96);
}
KERNEL(attention_fwd_128_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan, int heads,
       int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride, float scale) {
    ATTENTION_FWD(128);
}
KERNEL(attention_gather_fwd_64_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    ATTENTION_GATHER_FWD(64);
}
KERNEL(attention_gather_fwd_96_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    ATTENTION_GATHER_FWD(96);
}
KERNEL(attention_gather_fwd_128_bf16, (128, 2), bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* plan,
       const int* places, int limit, int heads, int group, int size, int o_stride, int lse_stride, int q_stride, int k_stride, int v_stride,
       float scale) {
    ATTENTION_GATHER_FWD(128);
}
