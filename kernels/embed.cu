// Rows of a table, gathered by id; their gradients, added up by id.
//
//   forward    y[t, :] = table[ids[t], :]
//   backward   dtable[ids[t], :] += dy[t, :]      t ascending
//
// y, dy [T, D]; table, dtable [V, D]; ids [T]. Rows strided. An id outside the table gives a row of NaN, and no gradient.
//
// The forward copies bits: a thread moves AT_ONCE vectors of 16 bytes, all read before the first is written. Bytes per
// element: twice the storage type's. Limiter: memory; 36 to 38 registers, 75% occupancy, 96 KB under way in a multiprocessor.
//
// The backward comes in two steps, so that rows with one id meet in one thread and are added in order, without atomics:
//   embed_order    sorts (id, t) by counting for each t how many pairs come before its own. A warp counts for four t. That is T^2
//                  comparisons of integers, so the host gives it a stretch of some thousand tokens at a time.
//   embed_bwd      goes over the sorted tokens; the first of each id owns the id's row: it reads the row, adds dy of the id's
//                  tokens, RUN of them under way at once, and writes the row.
// Sums are float and rounded to dtable's type when the row is written, as the oracle does, so bits are equal to the oracle's. Bytes: dy once, rows of dtable that
// occur read and written once a stretch. Limiter: memory; one id that fills a stretch is a chain in 128 threads for every 2 KB
// of the row. embed_order: 31 registers, full occupancy, limited by its comparisons; embed_bwd: up to 48, 62%. Oracle: src/ops/embed.rs.
#include "packed.cuh"
#include "reduce.cuh"

constexpr int AT_ONCE = 4;
constexpr int EACH = 4;  // tokens that a warp ranks
constexpr int RUN = 4;
constexpr int FWD_THREADS = 256, ORDER_THREADS = 256, BWD_THREADS = 128;
constexpr uint32_t NONE = 0x7fffffff;  // the key of tokens that give no gradient: they come last

template <bool WHOLE, class T>
DEVICE void embed_fwd(Rows<T> y, Rows<const T> table, const int* ids, uint32_t vectors, uint32_t per_row, int d, uint32_t rows) {
    Packed<T> x[AT_ONCE];
    Spot at[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
        const uint32_t v = (blockIdx.x * AT_ONCE + k) * FWD_THREADS + threadIdx.x;
        at[k] = v < vectors ? spot<T>(v, per_row) : Spot{0, d};
    }
    uint32_t id[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) id[k] = at[k].col < d ? ids[at[k].row] : rows;
    __syncwarp();  // all ids are on their way before the first is waited for
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++)
        x[k] = id[k] < rows ? load_packed<WHOLE>(table.at({id[k], at[k].col}), d - at[k].col) : Packed<T>::all(NAN);
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) store_packed<WHOLE>(y.at(at[k]), x[k], d - at[k].col);
}
template <class T> DEVICE void choose_fwd(Rows<T> y, Rows<const T> table, const int* ids, int t, int d, int rows) {
    const uint32_t per_row = (d + Vec<T>::N - 1) / Vec<T>::N;
    if (y.whole(d) && table.whole(d)) embed_fwd<true>(y, table, ids, t * per_row, per_row, d, rows);
    else embed_fwd<false>(y, table, ids, t * per_row, per_row, d, rows);
}

DEVICE uint32_t embed_key(int id, int rows, int padding) { return uint32_t(id) < uint32_t(rows) && id != padding ? id : NONE; }

// Adds dy of all tokens that share the id of the sorted token `p` to row `key` of dtable.
template <bool WHOLE, class E, class G>
DEVICE void embed_bwd(G* to, Rows<const E> dy, const int* order, const uint32_t* keys, uint32_t key, int p, int n, int col, int d) {
    constexpr int N = Vec<E>::N;
    float sum[N];
    load_floats<WHOLE>(sum, to, d - col);
    while (p < n && keys[p] == key) {
        int run = 1;
        while (run < RUN && p + run < n && keys[p + run] == key) run++;
        Packed<E> x[RUN];
#pragma unroll
        for (int k = 0; k < RUN; k++)
            if (k < run) x[k] = load_packed<WHOLE>(dy.at({uint32_t(order[p + k]), col}), d - col);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            if (k < run)
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] += x[k][i];
        p += run;
    }
    store_floats<WHOLE>(to, sum, d - col);
}
template <class E, class G>
DEVICE void choose_bwd(Rows<G> dtable, Rows<const E> dy, const int* order, const uint32_t* keys, int n, int d) {
    const uint32_t per_row = (d + Vec<E>::N - 1) / Vec<E>::N;
    const uint32_t v = blockIdx.x * BWD_THREADS + threadIdx.x;
    if (v >= n * per_row) return;
    const Spot at = spot<E>(v, per_row);
    const int p = at.row;
    const uint32_t key = keys[p];
    if (key == NONE || (p > 0 && keys[p - 1] == key)) return;
    G* to = dtable.at({key, at.col});
    if (dtable.whole(d) && dy.whole(d)) embed_bwd<true>(to, dy, order, keys, key, p, n, at.col, d);
    else embed_bwd<false>(to, dy, order, keys, key, p, n, at.col, d);
}

KERNEL(embed_fwd_f32, (256), float* y, const float* table, const int* ids, int t, int d, int rows, int y_stride, int table_stride) {
    choose_fwd<float>({y, y_stride}, {table, table_stride}, ids, t, d, rows);
}
KERNEL(embed_fwd_bf16, (256), bf16* y, const bf16* table, const int* ids, int t, int d, int rows, int y_stride, int table_stride) {
    choose_fwd<bf16>({y, y_stride}, {table, table_stride}, ids, t, d, rows);
}

// Tokens in the order of (key, t), and the keys in that order.
KERNEL(embed_order, (256), int* order, uint32_t* keys, const int* ids, int n, int rows, int padding) {
    const int lane = threadIdx.x % WARP;
    const int first = (blockIdx.x * (ORDER_THREADS / WARP) + threadIdx.x / WARP) * EACH;
    uint32_t own[EACH];
    int before[EACH] = {};
#pragma unroll
    for (int j = 0; j < EACH; j++) own[j] = first + j < n ? embed_key(ids[first + j], rows, padding) : 0;
#pragma unroll 4
    for (int s = lane; s < n; s += WARP) {
        const uint32_t key = embed_key(ids[s], rows, padding);
#pragma unroll
        for (int j = 0; j < EACH; j++) before[j] += key < own[j] + (s < first + j);
    }
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        const int rank = __reduce_add_sync(FULL, before[j]);
        if (lane == j && first + j < n) order[rank] = first + j, keys[rank] = own[j];
    }
}

// The types of dy and dtable.
KERNEL(embed_bwd_f32_f32, (128), float* dtable, const float* dy, const int* order, const uint32_t* keys, int n, int d, int dtable_stride,
       int dy_stride) {
    choose_bwd<float, float>({dtable, dtable_stride}, {dy, dy_stride}, order, keys, n, d);
}
KERNEL(embed_bwd_bf16_f32, (128), float* dtable, const bf16* dy, const int* order, const uint32_t* keys, int n, int d, int dtable_stride,
       int dy_stride) {
    choose_bwd<bf16, float>({dtable, dtable_stride}, {dy, dy_stride}, order, keys, n, d);
}
KERNEL(embed_bwd_bf16_bf16, (128), bf16* dtable, const bf16* dy, const int* order, const uint32_t* keys, int n, int d, int dtable_stride,
       int dy_stride) {
    choose_bwd<bf16, bf16>({dtable, dtable_stride}, {dy, dy_stride}, order, keys, n, d);
}
