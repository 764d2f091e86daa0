// Products of bf16 matrices whose rows both run along their free index: the gradient of a linear layer's weight.
//
//   dw[n, k] (=|+=) sum_m dy[m, n] x[m, k]        dy [M, N], x [M, K], dw [N, K]
//
#include "gemm_tile.cuh"

using Tile64x64 = Tile<64, 64, 2, 2, 4>;
using Tile128x128 = Tile<128, 128, 2, 2, 3>;
using Tile128x256 = Tile<128, 256, 2, 4, 3>;

template <class T, class O>
DEVICE void gemm_tn(O* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride, int dy_stride, int x_stride, int add) {
    gemm_tile<T, Along::free, Along::free>(dw, dy, x, nullptr, nullptr, n, k, m, dw_stride, dy_stride, x_stride, 0, add);
}

KERNEL(gemm_tn_64x64_bf16_f32, (128), float* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile64x64>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_64x64_bf16_bf16, (128), bf16* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile64x64>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_128x128_bf16_f32, (128, 2), float* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile128x128>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_128x128_bf16_bf16, (128, 2), bf16* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile128x128>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_128x256_bf16_f32, (256, 1), float* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile128x256>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
KERNEL(gemm_tn_128x256_bf16_bf16, (256, 1), bf16* dw, const bf16* dy, const bf16* x, int m, int n, int k, int dw_stride,
       int dy_stride, int x_stride, int add) {
    gemm_tn<Tile128x256>(dw, dy, x, m, n, k, dw_stride, dy_stride, x_stride, add);
}
