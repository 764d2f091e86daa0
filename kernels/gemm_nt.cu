// Products of bf16 matrices whose rows both run along the summed index: the forward of a linear layer.
//
//   y[m, n] = sum_k x[m, k] w[n, k] (+ bias[n]) (+ residual[m, n])        x [M, K], w [N, K], y [M, N]
//
#include "gemm_tile.cuh"

using Tile16x32 = Tile<16, 32, 1, 2, 8>;
using Tile64x64 = Tile<64, 64, 2, 2, 4>;
using Tile128x128 = Tile<128, 128, 2, 2, 3>;
using Tile128x256 = Tile<128, 256, 2, 4, 3>;

template <class T, class O>
DEVICE void gemm_nt(O* y, const bf16* x, const bf16* w, const bf16* bias, const bf16* residual, int m, int n, int k, int y_stride,
                    int x_stride, int w_stride, int residual_stride) {
    gemm_tile<T, Along::summed, Along::summed>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride, 0);
}

KERNEL(gemm_nt_16x32_bf16_f32, (64), float* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias, NULLABLE const bf16* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile16x32>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_16x32_bf16_bf16, (64), bf16* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias, NULLABLE const bf16* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile16x32>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_64x64_bf16_f32, (128), float* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias, NULLABLE const bf16* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile64x64>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_64x64_bf16_bf16, (128), bf16* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias, NULLABLE const bf16* residual,
       int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile64x64>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_128x128_bf16_f32, (128, 2), float* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias,
       NULLABLE const bf16* residual, int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile128x128>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_128x128_bf16_bf16, (128, 2), bf16* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias,
       NULLABLE const bf16* residual, int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile128x128>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_128x256_bf16_f32, (256, 1), float* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias,
       NULLABLE const bf16* residual, int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile128x256>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
KERNEL(gemm_nt_128x256_bf16_bf16, (256, 1), bf16* y, const bf16* x, const bf16* w, NULLABLE const bf16* bias,
       NULLABLE const bf16* residual, int m, int n, int k, int y_stride, int x_stride, int w_stride, int residual_stride) {
    gemm_nt<Tile128x256>(y, x, w, bias, residual, m, n, k, y_stride, x_stride, w_stride, residual_stride);
}
