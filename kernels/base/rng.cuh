// Random bits as a function of (seed, stream, step, element): Philox 4x32-10, the same bits as `src/base/rng.rs`.
#pragma once
#include "kernel.cuh"

struct Words {
    uint32_t w[4];
};

// `key` and the two last counter words are made by the host (`Rng::key`); the element varies by thread.
DEVICE Words random_words(uint32_t key0, uint32_t key1, uint32_t stream, uint32_t step, uint64_t element) {
    uint32_t c0 = uint32_t(element), c1 = uint32_t(element >> 32), c2 = stream, c3 = step;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t a = uint64_t(c0) * 0xD2511F53u, b = uint64_t(c2) * 0xCD9E8D57u;
        const uint32_t n0 = uint32_t(b >> 32) ^ c1 ^ key0, n2 = uint32_t(a >> 32) ^ c3 ^ key1;
        c0 = n0, c1 = uint32_t(b), c2 = n2, c3 = uint32_t(a);
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}
