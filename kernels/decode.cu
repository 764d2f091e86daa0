// Attention of one new token per sequence over its paged cache: split over chunks of keys, merged in order, in one launch.
//
//   place(j) = table[b, j / P] P + j mod P        s[j] = scale q[b, h] . k_pool[place(j), g]        o[b, h] = sum_j exp(s[j]) v_pool[place(j), g] / sum_j exp(s[j])
//
// o, q [B, H*K]; pools [pages * P, G*K]; table [B, capacity / P]; lens [B], in device memory: nothing here depends on them but the work itself, so a
// captured launch serves all lengths up to the table's capacity. partials [B, H + chunks * H (K + 2)], float: of each row first H
// counters (as integers, zero between launches), then for each chunk and head the largest score m, the sum of 2^(s - m) and the
// weighted values. Scores are kept times log2(e).
//
// An item is (sequence, chunk of 512 positions at absolute places, key-value head, 16 of its query heads). Blocks go over the items of all
// sequences by a fixed stride; how many blocks there are changes no bit, nor does the batch. The block that finishes a
// sequence's last chunk (a counter per head) merges them in ascending order and sets the counter back for the next launch.
//
//   decode_fwd_<D>_bf16    K a multiple of 8 up to 128, everything aligned to 16 bytes. The query heads of a key-value head are the 16 rows of
//                          mma m16n8k16. A warp takes 16 keys in 64 and has a ring of its own of 3 stages of 16 keys and values, filled by cp.async and
//                          guarded by warp barriers alone; the four warps are merged, in order, at the end of the chunk.
//   decode_fwd_plain       f32, and whatever else, up to K = 256: 32 keys at a time as float in shared memory, a lane for each key, a
//                          warp for every fourth head, plain multiply-adds.
//
// Bytes: 2 K of the storage type per key and key-value head, once; flops 4 K per query head and key. Limiter: memory. Two blocks of 4 warps
// with 2 stages of 8 KiB (K = 128) under way keep 128 KiB in flight on an SM (196 registers,
// 101 KiB of shared memory a block; one block on A100). A length or page out of range gives NaN. Oracle: src/ops/decode.rs.
#include "attention.cuh"
#include "reduce.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, CHUNK = 512, ROWS = 16, STAGES = 3, SEGMENT = 64, TILE = 32;

// ---------------------------------------------------------------- items

struct Lengths {
    const int* lens;
    int sequences, capacity;  // capacity: positions that the table has room for
};
DEVICE bool length_fits(Lengths of, int b) { return of.lens[b] >= 0 && of.lens[b] <= of.capacity; }
// A length that does not fit counts as none.
DEVICE int length_of(Lengths of, int b) { return length_fits(of, b) ? of.lens[b] : 0; }

struct Item {
    int sequence, chunk, chunks, part;  // part: which heads
};
// Finds items by rising number: 32 sequences at a time, whose items are counted by a scan over the warp.
struct Search {
    int window, before;  // first of the 32 sequences, and the number of items before it
};
DEVICE bool next_item(Item& item, Search& at, int number, Lengths of, int parts) {
    const int lane = threadIdx.x % WARP;
    for (; at.window < of.sequences; at.window += WARP) {
        const int b = at.window + lane;
        const int chunks = b < of.sequences ? max((length_of(of, b) + CHUNK - 1) / CHUNK, 1) : 0;
        int upto = chunks * parts;  // items of this and earlier sequences
#pragma unroll
        for (int d = 1; d < WARP; d *= 2) {
            const int other = __shfl_up_sync(FULL, upto, d);
            if (lane >= d) upto += other;
        }
        const int all = __shfl_sync(FULL, upto, WARP - 1), rank = number - at.before;
        if (rank < all) {
            const int owner = __popc(__ballot_sync(FULL, upto <= rank));
            const int of_owner = __shfl_sync(FULL, chunks, owner);
            const int inside = rank - (__shfl_sync(FULL, upto, owner) - of_owner * parts);
            item = {at.window + owner, inside / parts, of_owner, inside % parts};
            return true;
        }
        at.before += all;
    }
    return false;
}

// The pool's row of position `j`, -1 where the table names no page of the pool.
DEVICE int place_of(const int* table, int j, int page, int pages) {
    const int p = table[j / page];
    return p >= 0 && p < pages ? p * page + j % page : -1;
}

// ---------------------------------------------------------------- merging

// What the warps leave of a chunk: weighted values [PARTS][ROWS][size], largest scores and sums [PARTS][ROWS].
struct Parts {
    const float *values, *top, *total;
};

// Merges the parts of a chunk and, in the block that comes last, the chunks of the sequence.
template <int PARTS, class T>
DEVICE void finish(T* o, float* partials, Parts of, const Item& item, int head, int rows, int heads, int size) {
    SHARED(float, weights, [ROWS][SEGMENT]);
    SHARED(int, last, [1]);
    float* const chunks = partials + heads;
    const int width = size + 2;
    __syncthreads();
    for (int i = threadIdx.x; i < rows * size; i += THREADS) {
        const int row = i / size, c = i % size;
        float top = -INFINITY, total = 0.f, value = 0.f;
#pragma unroll
        for (int p = 0; p < PARTS; p++) top = fmaxf(top, of.top[p * ROWS + row]);
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            const float weight = exp2_approx(of.top[p * ROWS + row] - top);
            total = fmaf(of.total[p * ROWS + row], weight, total);
            value = fmaf(of.values[(p * ROWS + row) * size + c], weight, value);
        }
        if (item.chunks == 1) {
            o[row * size + c] = put<T>(value * (1.f / total));
        } else {
            float* to = chunks + int64_t(item.chunk * heads + head + row) * width;
            if (c == 0) to[0] = top, to[1] = total;
            to[2 + c] = value;
        }
    }
    if (item.chunks == 1) return;
    uint32_t* counter = reinterpret_cast<uint32_t*>(partials) + head;
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = atomic_add_acq_rel(counter, 1) == uint32_t(item.chunks) - 1;
        if (last[0]) *counter = 0;
    }
    __syncthreads();
    if (!last[0]) return;

    // Eight threads find the largest score of a row.
    const int mine = threadIdx.x / 8;
    float top = -INFINITY;
    if (mine < rows)
        for (int c = threadIdx.x % 8; c < item.chunks; c += 8) top = fmaxf(top, chunks[int64_t(c * heads + head + mine) * width]);
    top = row_max(top);
    top = fmaxf(top, __shfl_xor_sync(FULL, top, 4));
    // Columns go to threads in turn; what a thread adds up over the segments lies where its result belongs: in chunk 0's part.
    for (int first = 0; first < item.chunks; first += SEGMENT) {
        const int count = min(SEGMENT, item.chunks - first);
        __syncthreads();
        if (mine < rows)
            for (int c = threadIdx.x % 8; c < count; c += 8)
                weights[mine][c] = exp2_approx(chunks[int64_t((first + c) * heads + head + mine) * width] - top);
        __syncthreads();
        // Element 1 of a part is its sum, which is merged as the values are.
        for (int i = threadIdx.x; i < rows * (size + 1); i += THREADS) {
            const int row = i / (size + 1), c = i % (size + 1) + 1;
            float* part = chunks + int64_t(head + row) * width + c;
            float sum = first == 0 ? 0.f : *part;
#pragma unroll 4
            for (int n = 0; n < count; n++) sum = fmaf(part[int64_t(first + n) * heads * width], weights[row][n], sum);
            *part = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * size; i += THREADS) {
        const int row = i / size, c = i % size;
        const float* part = chunks + int64_t(head + row) * width;
        o[row * size + c] = put<T>(part[2 + c] * (1.f / part[1]));
    }
}

// A sequence without keys: zeros; NaN if it is so because its length is out of range.
template <class T> DEVICE void finish_empty(T* o, bool fits, int rows, int size) {
    for (int i = threadIdx.x; i < rows * size; i += THREADS) o[i] = put<T>(fits ? 0.f : NAN);
}

// ---------------------------------------------------------------- through the matrix units

// Starts copying the keys and values at 16 places, of which lane i holds number i % 16, into a stage.
template <int D>
DEVICE void load_stage(bf16* stage, const bf16* k, const bf16* v, int place, int k_stride, int v_stride, int size) {
    constexpr int ACROSS = D <= 64 ? 8 : 16, STEP = WARP / ACROSS;
    const int lane = threadIdx.x % WARP, chunk = lane % ACROSS;
#pragma unroll
    for (int first = 0; first < ROWS; first += STEP) {
        const int row = first + lane / ACROSS, from = __shfl_sync(FULL, place, row);
        if (chunk < D / 8) {
            const bool valid = from >= 0 && chunk * 8 < size;
            cp_async16(chunk_at<D>(stage, row, chunk), k + int64_t(from) * k_stride + chunk * 8, valid);
            cp_async16(chunk_at<D>(stage + ROWS * D, row, chunk), v + int64_t(from) * v_stride + chunk * 8, valid);
        }
    }
}

template <int D>
DEVICE void decode_fwd(bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table, const int* lens,
                       int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
                       int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    SHARED_DYNAMIC(bf16, shared, 128);
    SHARED(float, statistics, [2][WARPS][ROWS]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tiles = (group + ROWS - 1) / ROWS, parts = heads / group * tiles;
    const Lengths of = {lens, sequences, capacity};
    bf16* const ring = shared + warp * STAGES * 2 * ROWS * D;
    const float factor = scale * LOG2E;
    Search at = {0, 0};
    Item item;
    for (int number = blockIdx.x; next_item(item, at, number, of, parts); number += gridDim.x) {
        const int b = item.sequence, kv = item.part / tiles, inside = item.part % tiles * ROWS;
        const int head = kv * group + inside, rows = min(ROWS, group - inside);
        bf16* to = o + int64_t(b) * o_stride + head * size;
        const int length = length_of(of, b);
        if (length == 0) {
            finish_empty(to, length_fits(of, b), rows, size);
            continue;
        }
        const bf16 *k = k_pool + kv * size, *v = v_pool + kv * size;
        const int* row_of_table = table + int64_t(b) * table_stride;
        const int begin = item.chunk * CHUNK + warp * ROWS, end = min(length, (item.chunk + 1) * CHUNK);
        const int count = max(end - begin + WARPS * ROWS - 1, 0) / (WARPS * ROWS);  // of 16 keys that this warp has
        bool lost = false;                                                          // a key whose page does not exist
        auto key = [&](int i) { return begin + i * WARPS * ROWS + lane % ROWS; };  // this lane's of 16
        // The page that the table names; nothing looks at it before its keys are loaded, so that nothing waits for it.
        auto named = [&](int i) { return i < count && key(i) < end ? row_of_table[key(i) / page] : -1; };
        auto load = [&](int i, int name) {
            const bool found = name >= 0 && name < pages;
            lost |= !found && i < count && key(i) < end;
            if (i < count)
                load_stage<D>(ring + i % STAGES * 2 * ROWS * D, k, v, found ? name * page + key(i) % page : -1, k_stride, v_stride, size);
            cp_async_commit();
        };
        int names[STAGES];
#pragma unroll
        for (int i = 0; i < STAGES; i++) names[i] = named(i);
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++) load(i, names[i]);
        int next = names[STAGES - 1];

        uint32_t query[D / 16][4];
#pragma unroll
        for (int step = 0; step < D / 16; step++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = lane / 4 + e % 2 * 8, c = step * 16 + lane % 4 * 2 + e / 2 * 8;
                const bf16* from = q + int64_t(b) * q_stride + (head + row) * size + c;
                query[step][e] = row < rows && c < size ? *reinterpret_cast<const uint32_t*>(from) : 0;
            }
        float sum[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
        for (int i = 0; i < count; i++) {
            const bf16* stage = ring + i % STAGES * 2 * ROWS * D;
            cp_async_wait<STAGES - 2>();
            __syncwarp();  // All lanes' copies of this stage are there, and all have used the one before.
            load(i + STAGES - 1, next);
            next = named(i + STAGES);
            float score[2][4] = {};
            multiply_columns<D>(score, query, stage);
            const int left = end - begin - i * WARPS * ROWS - lane % 4 * 2;
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
                const float now = fmaxf(top[half], row_max(largest) * factor), shrink = exp2_approx(top[half] - now);
                top[half] = now, total[half] *= shrink;
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& s = score[n][2 * half + e];
                        s = exp2_approx(fmaf(s, factor, -now));
                        total[half] += s;
                    }
#pragma unroll
                for (int n = 0; n < D / 8; n++) sum[n][2 * half] *= shrink, sum[n][2 * half + 1] *= shrink;
            }
            multiply_rows<D>(sum, score, stage + ROWS * D);
        }
        cp_async_wait<0>();
        __syncthreads();  // The rings have been used: now they hold the warps' parts.
        float* values = reinterpret_cast<float*>(shared);
        const bool any_lost = __any_sync(FULL, lost);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = lane / 4 + half * 8;
            const float all = row_sum(total[half]);
            if (lane % 4 == 0) statistics[0][warp][row] = top[half], statistics[1][warp][row] = any_lost ? NAN : all;
            if (row < rows)
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        if (n * 8 < size) values[(warp * ROWS + row) * size + n * 8 + lane % 4 * 2 + e] = sum[n][2 * half + e];
        }
        const Parts left = {values, statistics[0][0], statistics[1][0]};
        finish<WARPS>(to, partials + int64_t(b) * partials_stride, left, item, head, rows, heads, size);
        __syncthreads();  // The parts have been used.
    }
}

// ---------------------------------------------------------------- by plain multiply-adds

template <int D, class T>
DEVICE void plain_decode_fwd(T* o, float* partials, const T* q, const T* k_pool, const T* v_pool, const int* table, const int* lens,
                             int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
                             int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    constexpr int N = Vec<T>::N, EACH = ROWS / WARPS;
    SHARED_DYNAMIC(float, shared, 128);
    SHARED(float, statistics, [2][ROWS]);
    SHARED(float, weights, [ROWS][TILE]);
    SHARED(int, places, [TILE]);
    // Rows in shared memory are whole vectors, and 16 bytes more.
    const int pitch = (size + 3) / 4 * 4 + 4, across = (size + N - 1) / N;
    float *const queries = shared, *const keys = queries + ROWS * pitch, *const values = keys + TILE * pitch;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tiles = (group + ROWS - 1) / ROWS, parts = heads / group * tiles;
    const Lengths of = {lens, sequences, capacity};
    Search at = {0, 0};
    Item item;
    for (int number = blockIdx.x; next_item(item, at, number, of, parts); number += gridDim.x) {
        const int b = item.sequence, kv = item.part / tiles, inside = item.part % tiles * ROWS;
        const int head = kv * group + inside, rows = min(ROWS, group - inside);
        T* to = o + int64_t(b) * o_stride + head * size;
        const int length = length_of(of, b);
        if (length == 0) {
            finish_empty(to, length_fits(of, b), rows, size);
            continue;
        }
        const T *query = q + int64_t(b) * q_stride + head * size, *k = k_pool + kv * size, *v = v_pool + kv * size;
        const bool vector = aligned16(k, k_stride) && aligned16(v, v_stride);
        for (int i = threadIdx.x; i < ROWS * pitch; i += THREADS) {
            const int row = i / pitch, c = i % pitch;
            queries[i] = row < rows && c < size ? get(query[row * size + c]) * scale : 0.f;
        }
        float sum[EACH][D / 32] = {}, top[EACH], total[EACH] = {};
#pragma unroll
        for (int r = 0; r < EACH; r++) top[r] = -INFINITY;
        bool lost = false;
        const int end = min(length, (item.chunk + 1) * CHUNK);
        for (int first = item.chunk * CHUNK; first < end; first += TILE) {
            __syncthreads();  // The tiles before have been used.
            if (warp == 0) places[lane] = first + lane < end ? place_of(table + int64_t(b) * table_stride, first + lane, page, pages) : -1;
            __syncthreads();
            for (int i = threadIdx.x; i < 2 * TILE * across; i += THREADS) {
                const int row = i / across % TILE, c = i % across * N, place = places[row];
                const bool is_key = i < TILE * across;
                const T* from = is_key ? k + int64_t(place) * k_stride : v + int64_t(place) * v_stride;
                float* tile = (is_key ? keys : values) + row * pitch + c;
                float x[N];
                load_part<T>(x, from + c, place < 0 ? 0 : size - c, vector);
#pragma unroll
                for (int e = 0; e < N; e += 4) *reinterpret_cast<float4*>(tile + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
            }
            __syncthreads();
            const bool here = first + lane < end;
            lost |= here && places[lane] < 0;
#pragma unroll
            for (int r = 0; r < EACH; r++) {
                const int row = warp + r * WARPS;
                if (row >= rows) continue;
                float s = 0.f;
                for (int c = 0; c < size; c += 4) {
                    float x[4], y[4];
                    Vec<float>::load(x, queries + row * pitch + c);
                    Vec<float>::load(y, keys + lane * pitch + c);
#pragma unroll
                    for (int e = 0; e < 4; e++) s = fmaf(x[e], y[e], s);
                }
                s = here ? s * LOG2E : -INFINITY;
                const float now = fmaxf(top[r], warp_max(s)), shrink = exp2_approx(top[r] - now), p = exp2_approx(s - now);
                top[r] = now, total[r] = total[r] * shrink + p;
                weights[row][lane] = p;
#pragma unroll
                for (int c = 0; c < D / 32; c++) sum[r][c] *= shrink;
                __syncwarp();
                for (int j = 0; j < TILE; j++) {
                    const float w = weights[row][j];
#pragma unroll
                    for (int c = 0; c < D / 32; c++)
                        if (lane + 32 * c < size) sum[r][c] = fmaf(w, values[j * pitch + lane + 32 * c], sum[r][c]);
                }
            }
        }
        __syncthreads();  // The keys have been used: their place holds the result.
        const bool any_lost = __any_sync(FULL, lost);
#pragma unroll
        for (int r = 0; r < EACH; r++) {
            const int row = warp + r * WARPS;
            if (row >= rows) continue;
            const float all = warp_sum(total[r]);
            if (lane == 0) statistics[0][row] = top[r], statistics[1][row] = any_lost ? NAN : all;
#pragma unroll
            for (int c = 0; c < D / 32; c++)
                if (lane + 32 * c < size) keys[row * size + lane + 32 * c] = sum[r][c];
        }
        const Parts left = {keys, statistics[0], statistics[1]};
        finish<1>(to, partials + int64_t(b) * partials_stride, left, item, head, rows, heads, size);
        __syncthreads();  // The parts have been used.
    }
}

#define DECODE_FWD(kernel)                                                                                                                \
    kernel(o, partials, q, k_pool, v_pool, table, lens, sequences, heads, group, size, page, pages, capacity, o_stride, partials_stride,  \
           q_stride, k_stride, v_stride, table_stride, scale)

KERNEL(decode_fwd_64_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(decode_fwd<64>);
}
KERNEL(decode_fwd_96_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(decode_fwd<96>);
}
KERNEL(decode_fwd_128_bf16, (128, 2), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(decode_fwd<128>);
}
KERNEL(decode_fwd_plain_128_f32, (128), float* o, float* partials, const float* q, const float* k_pool, const float* v_pool,
       const int* table, const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
       int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(plain_decode_fwd<128>);
}
KERNEL(decode_fwd_plain_128_bf16, (128), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(plain_decode_fwd<128>);
}
KERNEL(decode_fwd_plain_256_f32, (128), float* o, float* partials, const float* q, const float* k_pool, const float* v_pool,
       const int* table, const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
       int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(plain_decode_fwd<256>);
}
KERNEL(decode_fwd_plain_256_bf16, (128), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(plain_decode_fwd<256>);
}
