// Keys and values into their places in the paged cache.
//
//   k_pool[places[t], :] = k[t, :]      v_pool[places[t], :] = v[t, :]
//
// k, v [T, W], pools [R, W], rows strided; places [T]. A place outside the pool is skipped. Of tokens with one place the last
// stays: a warp that has a token first looks whether the same place comes again, and if so leaves it alone, so that no two warps
// write one row. That reads T / 2 places for a token, from the cache. A lane then moves AT_ONCE vectors of 16 bytes of k and as many of
// v, all read before the first is written. Bytes per element: twice the storage type's; no flops. Limiter: memory;
// 48 registers, 62% occupancy. Oracle: src/ops/pages.rs.
#include "packed.cuh"

constexpr int THREADS = 128;
constexpr int AT_ONCE = 2;

template <bool WHOLE, class T> DEVICE void copy_row(T* k_to, T* v_to, const T* k, const T* v, int width, int lane) {
    constexpr int N = Vec<T>::N;
    for (int first = lane * N; first < width; first += AT_ONCE * WARP * N) {
        Packed<T> x[AT_ONCE][2];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int c = first + i * WARP * N;
            x[i][0] = load_packed<WHOLE>(k + c, width - c), x[i][1] = load_packed<WHOLE>(v + c, width - c);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int c = first + i * WARP * N;
            store_packed<WHOLE>(k_to + c, x[i][0], width - c), store_packed<WHOLE>(v_to + c, x[i][1], width - c);
        }
    }
}

template <class T>
DEVICE void pages_write(Rows<T> k_pool, Rows<T> v_pool, Rows<const T> k, Rows<const T> v, const int* places, int t, int width, int rows) {
    const int lane = threadIdx.x % WARP;
    const int token = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    const int place = token < t ? places[token] : -1;
    if (uint32_t(place) >= uint32_t(rows)) return;
    bool again = false;
#pragma unroll 4
    for (int s = token + 1 + lane; s < t; s += WARP) again |= places[s] == place;
    if (__any_sync(FULL, again)) return;
    if (k_pool.whole(width) && v_pool.whole(width) && k.whole(width) && v.whole(width))
        copy_row<true>(k_pool[place], v_pool[place], k[token], v[token], width, lane);
    else copy_row<false>(k_pool[place], v_pool[place], k[token], v[token], width, lane);
}

KERNEL(pages_write_f32, (128), float* k_pool, float* v_pool, const float* k, const float* v, const int* places, int t, int width, int rows,
       int k_pool_stride, int v_pool_stride, int k_stride, int v_stride) {
    pages_write<float>({k_pool, k_pool_stride}, {v_pool, v_pool_stride}, {k, k_stride}, {v, v_stride}, places, t, width, rows);
}
KERNEL(pages_write_bf16, (128), bf16* k_pool, bf16* v_pool, const bf16* k, const bf16* v, const int* places, int t, int width, int rows,
       int k_pool_stride, int v_pool_stride, int k_stride, int v_stride) {
    pages_write<bf16>({k_pool, k_pool_stride}, {v_pool, v_pool_stride}, {k, k_stride}, {v, v_stride}, places, t, width, rows);
}
