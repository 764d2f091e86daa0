// Products of bf16 matrices where the right one's rows run along its free index: the gradient of a linear layer's input.
//
//   dx[m, k] (=|+=) sum_n dy[m, n] w[n, k]        dy [M, N], w [N, K], dx [M, K]
//
#include "gemm_tile.cuh"

using Tile64x64 = Tile<64, 64, 2, 2, 4>;
using Tile128x128 = Tile<128, 128, 2, 2, 3>;
using Tile128x256 = Tile<128, 256, 2, 4, 3>;

template <class T, class O>
DEVICE void gemm_nn(O* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride, int dy_stride, int w_stride, int add) {
    gemm_tile<T, Along::summed, Along::free>(dx, dy, w, nullptr, nullptr, m, k, n, dx_stride, dy_stride, w_stride, 0, add);
}

KERNEL(gemm_nn_64x64_bf16_f32, (128), float* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile64x64>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_64x64_bf16_bf16, (128), bf16* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile64x64>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_128x128_bf16_f32, (128, 2), float* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile128x128>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_128x128_bf16_bf16, (128, 2), bf16* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile128x128>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_128x256_bf16_f32, (256, 1), float* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile128x256>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
KERNEL(gemm_nn_128x256_bf16_bf16, (256, 1), bf16* dx, const bf16* dy, const bf16* w, int m, int n, int k, int dx_stride,
       int dy_stride, int w_stride, int add) {
    gemm_nn<Tile128x256>(dx, dy, w, m, n, k, dx_stride, dy_stride, w_stride, add);
}
