// The logistic function: in float, as SwiGLU takes it; and in double, as losses of pairs need it.
#pragma once
#include "ptx.cuh"

DEVICE float sigmoid(float x) { return reciprocal_approx(1.f + expf(-x)); }

struct LogSigmoid {
    double loss, miss;
};
// -ln sigma(x) and sigma(-x), exact at any magnitude.
DEVICE LogSigmoid log_sigmoid(double x) {
    const double small = exp(-fabs(x));
    return {fmax(-x, 0.0) + log1p(small), (x >= 0.0 ? small : 1.0) / (1.0 + small)};
}
