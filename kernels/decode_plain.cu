// Attention of one new token per sequence over its paged cache by plain fused multiply-adds: for f32, and for bf16 in shapes that the matrix
// units do not take (head sizes that are no multiple of 8 or beyond 128, tensors that are not aligned to 16 bytes). Formulas, items and
// the order of merging in decode.cu. Heads of up to 256 columns, any strides.
//
// A block takes 32 keys at a time as float in shared memory; a lane has a key, a warp every fourth head. Bytes: 2 K of the storage type
// per key and key-value head; flops 4 K per query head and key. Limiter: multiply-adds from shared
// memory. 168 registers (160 for bf16 up to 256 columns): three blocks of 4 warps an SM. Oracle: src/ops/decode.rs.
#include "decode.cuh"

constexpr int TILE = 32;

template <int D, class T>
DEVICE void plain_decode_fwd(T* o, float* partials, const T* q, const T* k_pool, const T* v_pool, const int* table, const int* lens,
                             int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
                             int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    constexpr int N = Vec<T>::N, EACH = ROWS / WARPS;
    SHARED_DYNAMIC(float, shared, 128);
    SHARED(float, statistics, [2][ROWS]);
    SHARED(float, weights, [ROWS][TILE]);
    SHARED(float, merging, [ROWS * SEGMENT]);
    SHARED(int, places, [TILE]);
    // Rows in shared memory are whole vectors, and 16 bytes more.
    const int pitch = (size + 3) / 4 * 4 + 4, across = (size + N - 1) / N;
    float *const queries = shared, *const keys = queries + ROWS * pitch, *const values = keys + TILE * pitch;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // Whoever shares keys reads them for itself.
    const Batch of = {lens, nullptr, sequences, capacity, 1};
    const Results<T> to = {o, partials, o_stride, partials_stride, heads, size};
    Search at = {0, 0};
    Item item;
    for (int number = blockIdx.x; next_item(item, at, number, of, parts_of(heads, group)); number += gridDim.x) {
        const Team team = team_of(item, group);
        const int b = team.first, rows = team.rows, length = length_of(of, b), kv = team.head / group;
        if (length == 0) {
            finish_empty(to, team, length_fits(of, b));
            continue;
        }
        const T *query = q + int64_t(b) * q_stride + team.head * size, *k = k_pool + kv * size, *v = v_pool + kv * size;
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
            if (warp == 0) places[lane] = first + lane < end ? row_of(table + int64_t(b) * table_stride, first + lane, page, pages) : -1;
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
        __syncthreads();
        for (int i = threadIdx.x; i < rows * size; i += THREADS) {
            const int row = i / size, c = i % size;
            leave(place_of(to, of, team, item.chunk, row), c, keys[i], statistics[0][row], statistics[1][row]);
        }
        finish(to, of, team, merging);
        __syncthreads();  // Shared memory has been used.
    }
}

#define DECODE_FWD(D)                                                                                                              \
    plain_decode_fwd<D>(o, partials, q, k_pool, v_pool, table, lens, sequences, heads, group, size, page, pages, capacity, o_stride, \
                        partials_stride, q_stride, k_stride, v_stride, table_stride, scale)

KERNEL(decode_fwd_plain_128_f32, (128, 3), float* o, float* partials, const float* q, const float* k_pool, const float* v_pool,
       const int* table, const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
       int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(128);
}
KERNEL(decode_fwd_plain_128_bf16, (128, 3), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(128);
}
KERNEL(decode_fwd_plain_256_f32, (128, 3), float* o, float* partials, const float* q, const float* k_pool, const float* v_pool,
       const int* table, const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride,
       int partials_stride, int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(256);
}
KERNEL(decode_fwd_plain_256_bf16, (128, 3), bf16* o, float* partials, const bf16* q, const bf16* k_pool, const bf16* v_pool, const int* table,
       const int* lens, int sequences, int heads, int group, int size, int page, int pages, int capacity, int o_stride, int partials_stride,
       int q_stride, int k_stride, int v_stride, int table_stride, float scale) {
    DECODE_FWD(256);
}
