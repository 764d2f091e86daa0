// Attention of one new token per sequence over its paged cache: split over chunks of keys, merged in order, in one launch. What several
// sequences share is read once for all of them.
//
//   place(j) = table[b, j / P] P + j mod P        s[j] = scale q[b, h] . k_pool[place(j), g]        o[b, h] = sum_j exp(s[j]) v_pool[place(j), g] / sum_j exp(s[j])
//
// o, q [B, H*K]; pools [pages * P, G*K]; table [B, capacity / P]; lens, shares [B], in device memory: nothing here depends on them but the
// work itself, so a captured launch serves all lengths up to the table's capacity. partials [B, H + chunks * H (K + 2)], float: of each row
// first H counters (as integers, zero between launches), then for each chunk and head the largest score m, the sum of 2^(s - m) and
// the weighted values. Scores are kept times log2(e).
//
// An item is (sequence, chunk of 512 positions at absolute places, key-value head, 16 of its query heads). Where the sequences after it have the
// chunk on the same pages (`shares`, from decode_shares), they belong to the same item, up to 64 rows of (sequence, head) in all. Blocks go over
// the items of all sequences by a fixed stride; how many blocks there are changes no bit, nor does the batch, nor who shares what.
// The block that finishes a sequence's last chunk (a counter per head) merges them in ascending order and sets the counter back.
//
//   decode_fwd_<D>_bf16    K a multiple of 8 up to 128, everything aligned to 16 bytes. Rows are those of mma m16n8k16. The keys of a chunk are
//                          in four parts: of each 64 the first 16, the second 16, .. Of up to 16 rows each warp takes a part, with a ring
//                          of its own of 3 stages of 16 keys and values, filled by cp.async and guarded by warp barriers alone. Of
//                          more rows each warp takes 16 over all keys, part after part, from one ring of 4 stages of 32. Either way the parts are
//                          merged in order.
//   decode_fwd_plain       whatever else (decode_plain.cu).
//
// Bytes: 2 K of the storage type per key and key-value head, once for each item; flops 4 K per query head and key. Limiter: memory; where 64
// rows share, the matrix units. Two blocks of 4 warps with 2 stages of 8 KiB (K = 128) under way keep 128 KiB in flight on an SM
// (185, 226 and 255 registers for K = 64, 96, 128; 99 KiB of shared memory a block, so that it fits where a block may have no more; two blocks
// of H100, one of A100). A length or page out of range gives NaN. Oracle: src/ops/decode.rs.
#include "decode.cuh"

constexpr int STAGES = 3;                           // of a warp's own ring: 16 keys and values
constexpr int BLOCK_STAGES = 4, BLOCK_KEYS = 32;    // of the ring of a block

// ---------------------------------------------------------------- sixteen rows, sixteen keys

// Rows `first` to `first` + 15 of a team's queries, as left operands.
template <int D> DEVICE void load_queries(uint32_t (&query)[D / 16][4], const bf16* q, int q_stride, const Team& team, int first, int size) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        const bool there = row < rows_of(team);
        const bf16* from = there ? q + int64_t(sequence_of(team, row)) * q_stride + head_of(team, row) * size : q;
#pragma unroll
        for (int step = 0; step < D / 16; step++)
#pragma unroll
            for (int right = 0; right < 2; right++) {
                const int c = step * 16 + lane % 4 * 2 + right * 8;
                query[step][right * 2 + half] = there && c < size ? *reinterpret_cast<const uint32_t*>(from + c) : 0;
            }
    }
}

// A lane's share of the softmax of 16 rows, lane / 4 and 8 more: of the sums columns 2 (lane % 4) and the next of each 8, of the total its own keys.
template <int D> struct Softmax {
    float sum[D / 8][4], top[2], total[2];
};
template <int D> DEVICE void clear(Softmax<D>& of) {
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) of.sum[n][e] = 0.f;
#pragma unroll
    for (int half = 0; half < 2; half++) of.top[half] = -INFINITY, of.total[half] = 0.f;
}
// Goes on with 16 keys and values, of which `left` exist.
template <int D>
DEVICE void attend(Softmax<D>& of, const uint32_t (&query)[D / 16][4], const bf16* keys, const bf16* values, float factor, int left) {
    float score[2][4] = {};
    multiply_columns<D>(score, query, keys);
    left -= threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float& s = score[n][2 * half + e];
                s = n * 8 + e < left ? s : -INFINITY;
                largest = fmaxf(largest, s);
            }
        const float now = fmaxf(of.top[half], row_max(largest) * factor), shrink = exp2_approx(of.top[half] - now);
        of.top[half] = now, of.total[half] *= shrink;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float& s = score[n][2 * half + e];
                s = exp2_approx(fmaf(s, factor, -now));
                of.total[half] += s;
            }
#pragma unroll
        for (int n = 0; n < D / 8; n++) of.sum[n][2 * half] *= shrink, of.sum[n][2 * half + 1] *= shrink;
    }
    multiply_rows<D>(of.sum, score, values);
}

// What an item reads.
struct Keys {
    const bf16 *k, *v;  // of its key-value head
    const int* table;   // of its first sequence
    int k_stride, v_stride, size, page, pages;
};

// ---------------------------------------------------------------- up to 16 rows: a warp takes a part

// Starts copying the keys and values at 16 places, of which lane i holds number i % 16, into a stage.
template <int D> DEVICE void load_stage(bf16* stage, const Keys& from, int place) {
    constexpr int ACROSS = D <= 64 ? 8 : 16, STEP = WARP / ACROSS;
    const int lane = threadIdx.x % WARP, column = lane % ACROSS;
#pragma unroll
    for (int first = 0; first < ROWS; first += STEP) {
        const int row = first + lane / ACROSS, at = __shfl_sync(FULL, place, row);
        if (column < D / 8) {
            const bool valid = at >= 0 && column * 8 < from.size;
            cp_async16(chunk_at<D>(stage, row, column), from.k + int64_t(at) * from.k_stride + column * 8, valid);
            cp_async16(chunk_at<D>(stage + ROWS * D, row, column), from.v + int64_t(at) * from.v_stride + column * 8, valid);
        }
    }
}

template <int D>
DEVICE void decode_parts(bf16* shared, const Results<bf16>& to, const Batch& of, const Team& team, const Keys& from, const bf16* q, int q_stride,
                         int chunk, float factor) {
    SHARED(float, statistics, [2][WARPS][ROWS]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, size = from.size, rows = rows_of(team);
    bf16* const ring = shared + warp * STAGES * 2 * ROWS * D;
    const int begin = chunk * CHUNK + warp * ROWS, end = min(length_of(of, team.first), (chunk + 1) * CHUNK);
    const int count = max(end - begin + WARPS * ROWS - 1, 0) / (WARPS * ROWS);  // of 16 keys that this warp has
    bool lost = false;                                                          // a key whose page does not exist
    auto key = [&](int i) { return begin + i * WARPS * ROWS + lane % ROWS; };  // this lane's of 16
    // The page that the table names; nothing looks at it before its keys are loaded, so that nothing waits for it.
    auto named = [&](int i) { return i < count && key(i) < end ? from.table[key(i) / from.page] : -1; };
    auto load = [&](int i, int name) {
        const bool found = name >= 0 && name < from.pages;
        lost |= !found && i < count && key(i) < end;
        if (i < count) load_stage<D>(ring + i % STAGES * 2 * ROWS * D, from, found ? name * from.page + key(i) % from.page : -1);
        cp_async_commit();
    };
    int names[STAGES];
#pragma unroll
    for (int i = 0; i < STAGES; i++) names[i] = named(i);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) load(i, names[i]);
    int next = names[STAGES - 1];

    uint32_t query[D / 16][4];
    load_queries<D>(query, q, q_stride, team, 0, size);
    Softmax<D> part;
    clear(part);
    for (int i = 0; i < count; i++) {
        const bf16* stage = ring + i % STAGES * 2 * ROWS * D;
        cp_async_wait<STAGES - 2>();
        __syncwarp();  // All lanes' copies of this stage are there, and all have used the one before.
        load(i + STAGES - 1, next);
        next = named(i + STAGES);
        attend<D>(part, query, stage, stage + ROWS * D, factor, end - begin - i * WARPS * ROWS);
    }
    cp_async_wait<0>();
    __syncthreads();  // The rings have been used: now they hold the parts.
    float* const values = reinterpret_cast<float*>(shared);
    const bool any_lost = __any_sync(FULL, lost);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + half * 8;
        const float all = row_sum(part.total[half]);
        if (lane % 4 == 0) statistics[0][warp][row] = part.top[half], statistics[1][warp][row] = any_lost ? NAN : all;
        if (row < rows)
#pragma unroll
            for (int n = 0; n < D / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (n * 8 < size) values[(warp * ROWS + row) * size + n * 8 + lane % 4 * 2 + e] = part.sum[n][2 * half + e];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * size; i += THREADS) {
        const int row = i / size, c = i % size;
        float top = statistics[0][0][row], total = statistics[1][0][row], value = values[row * size + c];
#pragma unroll
        for (int p = 1; p < WARPS; p++) {
            const Weights by = weigh(top, statistics[0][p][row]);
            total = merge(total, statistics[1][p][row], by);
            value = merge(value, values[(p * ROWS + row) * size + c], by);
            top = by.top;
        }
        leave(place_of(to, of, team, chunk, row), c, value, top, total);
    }
}

// ---------------------------------------------------------------- more rows: a warp takes 16 of them

// Over a whole chunk, which all of the team's sequences have on the same pages, all of which exist.
template <int D>
DEVICE void decode_rows(bf16* shared, const Results<bf16>& to, const Batch& of, const Team& team, const Keys& from, const bf16* q, int q_stride,
                        int chunk, float factor) {
    constexpr int STEPS = CHUNK / BLOCK_KEYS, OF_PART = STEPS / WARPS, STAGE = 2 * BLOCK_KEYS * D, ACROSS = D <= 64 ? 8 : 16;
    SHARED(int, places, [CHUNK]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, size = from.size;
    // Keys in the order of their parts.
    for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
        const int part = i / (CHUNK / WARPS), inside = i % (CHUNK / WARPS);
        const int j = chunk * CHUNK + (inside / ROWS * WARPS + part) * ROWS + inside % ROWS;
        places[i] = row_of(from.table, j, from.page, from.pages);
    }
    __syncthreads();
    auto load = [&](int step) {
        bf16* const stage = shared + step % BLOCK_STAGES * STAGE;
        const int column = threadIdx.x % ACROSS;
        if (step < STEPS && column < D / 8)
#pragma unroll
            for (int i = 0; i < BLOCK_KEYS * ACROSS / THREADS; i++) {
                const int row = threadIdx.x / ACROSS + i * (THREADS / ACROSS), place = places[step * BLOCK_KEYS + row];
                const bool valid = place >= 0 && column * 8 < size;
                cp_async16(chunk_at<D>(stage, row, column), from.k + int64_t(place) * from.k_stride + column * 8, valid);
                cp_async16(chunk_at<D>(stage + STAGE / 2, row, column), from.v + int64_t(place) * from.v_stride + column * 8, valid);
            }
        cp_async_commit();
    };
    for (int step = 0; step < BLOCK_STAGES - 1; step++) load(step);

    // The sums of the parts so far wait in shared memory, each lane's own.
    float4* const merged = reinterpret_cast<float4*>(shared + BLOCK_STAGES * STAGE) + warp * (D / 8) * WARP + lane;
    const bool works = warp * ROWS < rows_of(team);
    uint32_t query[D / 16][4];
    load_queries<D>(query, q, q_stride, team, warp * ROWS, size);
    Softmax<D> part;
    float top[2] = {}, total[2] = {};
    for (int step = 0; step < STEPS; step++) {
        const bf16* const stage = shared + step % BLOCK_STAGES * STAGE;
        cp_async_wait<BLOCK_STAGES - 2>();
        __syncthreads();  // All copies of this stage are there, and all have used the one before.
        load(step + BLOCK_STAGES - 1);
        if (!works) continue;
        if (step % OF_PART == 0) clear(part);
#pragma unroll 1
        for (int row = 0; row < BLOCK_KEYS; row += ROWS) attend<D>(part, query, stage + row * D, stage + STAGE / 2 + row * D, factor, ROWS);
        if (step % OF_PART < OF_PART - 1) continue;
        const bool first = step < OF_PART, last = step == STEPS - 1;
        Weights by[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float all = row_sum(part.total[half]);
            by[half] = weigh(top[half], part.top[half]);
            total[half] = first ? all : merge(total[half], all, by[half]);
            top[half] = first ? part.top[half] : by[half].top;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            float4 more = make_float4(part.sum[n][0], part.sum[n][1], part.sum[n][2], part.sum[n][3]);
            if (!first) {
                const float4 sum = merged[n * WARP];
                more.x = merge(sum.x, more.x, by[0]), more.y = merge(sum.y, more.y, by[0]);
                more.z = merge(sum.z, more.z, by[1]), more.w = merge(sum.w, more.w, by[1]);
            }
            if (last) part.sum[n][0] = more.x, part.sum[n][1] = more.y, part.sum[n][2] = more.z, part.sum[n][3] = more.w;
            else merged[n * WARP] = more;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp * ROWS + lane / 4 + half * 8;
        if (row >= rows_of(team)) continue;
        const Place<bf16> at = place_of(to, of, team, chunk, row);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (n * 8 < size) leave(at, n * 8 + lane % 4 * 2 + e, part.sum[n][2 * half + e], top[half], total[half]);
    }
}

// ---------------------------------------------------------------- all items

template <int D>
DEVICE void decode_fwd(bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table, const Batch& of, int heads,
                       int group, int size, int page, int pages, int o_stride, int partials_stride, int q_stride, int k_stride, int v_stride,
                       int table_stride, float scale) {
    SHARED_DYNAMIC(bf16, shared, 128);
    const Results<bf16> to = {o, partials, o_stride, partials_stride, heads, size};
    const float factor = scale * LOG2E;
    Search at = {0, 0};
    Item item;
    for (int number = blockIdx.x; next_item(item, at, number, of, parts_of(heads, group)); number += gridDim.x) {
        const Team team = team_of(item, group);
        if (length_of(of, team.first) == 0) {
            finish_empty(to, team, length_fits(of, team.first));
            continue;
        }
        const int column = team.head / group * size;
        const int* row = table + int64_t(team.first) * table_stride;
        const Keys from = {k_pool + column, v_pool + column, row, k_stride, v_stride, size, page, pages};
        if (rows_of(team) <= ROWS) decode_parts<D>(shared, to, of, team, from, q, q_stride, item.chunk, factor);
        else decode_rows<D>(shared, to, of, team, from, q, q_stride, item.chunk, factor);
        finish(to, of, team, reinterpret_cast<float*>(shared));
        __syncthreads();  // Shared memory has been used.
    }
}

#define DECODE_FWD(D)                                                                                                                    \
    decode_fwd<D>(o, partials, q, k_pool, v_pool, table, {lens, shares, sequences, capacity, together}, heads, group, size, page, pages, \
                  o_stride, partials_stride, q_stride, k_stride, v_stride, table_stride, scale)

KERNEL(decode_fwd_64_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, const int* shares, int sequences, int together, int heads, int group, int size, int page, int pages, int capacity,
       int o_stride, int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(64);
}
KERNEL(decode_fwd_96_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, const int* shares, int sequences, int together, int heads, int group, int size, int page, int pages, int capacity,
       int o_stride, int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(96);
}
KERNEL(decode_fwd_128_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, const int* shares, int sequences, int together, int heads, int group, int size, int page, int pages, int capacity,
       int o_stride, int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(128);
}
