// The logistic function in double, as losses of pairs need it.
#pragma once
#include "kernel.cuh"

struct LogSigmoid {
    double loss, miss;
};
// -ln sigma(x) and sigma(-x), exact at any magnitude.
DEVICE LogSigmoid log_sigmoid(double x) {
    const double small = exp(-fabs(x));
    return {fmax(-x, 0.0) + log1p(small), (x >= 0.0 ? small : 1.0) / (1.0 + small)};
}
