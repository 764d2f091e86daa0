// The next token of every row of logits, by the row's own settings.
//
//   temperature 0: the lowest id among the largest logits. Otherwise q[v] = exp((logits[v] - max) / temperature), filtered by
//   top-k, top-p and min-p in this order, and the id is the argmax over the kept of q[v] / -ln u[v] (Gumbel-max).
//   logprob = logits[id] - ln sum_v exp(logits[v])
//
// R rows of V logits; settings are R rows of 8 words in device memory, so that a recorded graph can be replayed. A row goes to a
// block. Each pass reads the row again (from L2: rows are below 1 MB): two passes for a greedy row, one more to draw, 12 for top-k,
// 13 for top-p. The edges of top-k and top-p are found from the highest bits of the logits to the lowest, three bits a pass: the
// weights above and at each digit are sums of integers (counts, or masses in units of 2^-40), exact in any order. q has the CPU's
// bits (`exp_of_cpu`), so the same tokens are kept and the same one is drawn, however rows are batched. The sum of logprob is the
// one that has another order than the CPU's.
//
// Bytes: (2 to 28) 4 V a row from L2, once from memory. Flops: some 100 integer operations a kept token to draw (Philox), 57 us for
// 128K tokens on one multiprocessor; the limiter is the latency of one block per row. 64 registers for each of 1024 threads: one
// block to a multiprocessor. Settings that mean nothing (NaN) keep some token; no id is outside 0..V. Oracle: src/ops/sample.rs.
#include "exp.cuh"
#include "reduce.cuh"
#include "rng.cuh"
#include "types.cuh"

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / WARP;
constexpr int BITS = 3;             // of a key that a pass fixes
constexpr int DIGITS = 1 << BITS;
constexpr int EVERY = 0x7fffffff;   // no limit on ids

// As `Sampling::row` writes them.
struct Settings {
    float temperature, top_p, min_p;
    uint32_t top_k, seed[2], step[2];
};
DEVICE Settings settings_of(const int* words) {
    const uint32_t* w = reinterpret_cast<const uint32_t*>(words);
    return {__uint_as_float(w[0]), __uint_as_float(w[2]), __uint_as_float(w[3]), w[1], {w[4], w[5]}, {w[6], w[7]}};
}

// Which tokens stay: those with a larger key, and those up to id `last` with this key.
struct Cut {
    uint32_t key;
    int last;
    __device__ __forceinline__ bool keeps(uint32_t k, int id) const { return k > key || (k == key && id <= last); }
};

struct Shared {
    uint64_t parts[DIGITS][WARPS];  // a warp reads those of one digit: neighbours, so that no two meet in a bank
    uint64_t totals[DIGITS];
    double scores[WARPS];
    int ids[WARPS];
    float floats[WARPS];
    int found;
};

// ---------------------------------------------------------------- sums over the block

DEVICE uint64_t warp_sum(uint64_t v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(FULL, v, offset);
    return v;
}
DEVICE uint64_t warp_max(uint64_t v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const uint64_t other = __shfl_xor_sync(FULL, v, offset);
        v = other > v ? other : v;
    }
    return v;
}

// Sums of N values each over the block: `totals` holds them from the barrier at the end until the next call's first one.
template <int N> DEVICE void block_sums(Shared& s, const uint64_t (&v)[N]) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const uint64_t sum = warp_sum(v[j]);
        if (lane == 0) s.parts[j][warp] = sum;
    }
    __syncthreads();
    if (warp < N) {
        const uint64_t sum = warp_sum(s.parts[warp][lane]);
        if (lane == 0) s.totals[warp] = sum;
    }
    __syncthreads();
}
DEVICE uint64_t block_max(Shared& s, uint64_t v) {
    v = warp_max(v);
    if (threadIdx.x % WARP == 0) s.parts[0][threadIdx.x / WARP] = v;
    __syncthreads();
    const uint64_t largest = warp_max(s.parts[0][threadIdx.x % WARP]);
    __syncthreads();
    return largest;
}

// ---------------------------------------------------------------- one row

// Bits that order as the logits do. Zero has one sign.
DEVICE uint32_t key_of(float logit) {
    const uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.f));
    return bits >> 31 ? ~bits : bits | 1u << 31;
}
DEVICE float logit_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

template <class T> struct Row {
    const T* logits;
    int v;
    bool vector;
    float largest, inverse;  // 1 / temperature

    // Calls f(id, logit) for this thread's tokens, ascending.
    template <class F> __device__ __forceinline__ void each(F f) const {
        constexpr int N = Vec<T>::N;
        for (int c = threadIdx.x * N; c < v; c += THREADS * N) {
            float x[N];
            load_part<T>(x, logits + c, v - c, vector);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (c + i < v) f(c + i, x[i]);
        }
    }
    // The probability of a token, up to the factor that makes the largest 1.
    __device__ __forceinline__ float mass(float logit) const {
        return exp_of_cpu(__fmul_rn(__fsub_rn(logit, largest), inverse));
    }
    // In whole units, so that sums are exact in any order.
    __device__ __forceinline__ uint64_t units(float logit) const {
        const float m = mass(logit);
        return m > 0.f ? uint64_t(m * float(1ull << 40)) : 0;
    }
};

// The id of kept token number `rank` (from 1) of those whose key is `key`.
template <class T> DEVICE int nth_of_key(Shared& s, const Row<T>& row, const Cut& kept, uint32_t key, uint64_t rank) {
    uint64_t seen = 0;
    for (int base = 0; base < row.v; base += THREADS) {
        const int id = base + threadIdx.x;
        const bool here = id < row.v && key_of(get(row.logits[min(id, row.v - 1)])) == key && kept.keeps(key, id);
        const int count = __syncthreads_count(here);
        if (seen + count < rank) {
            seen += count;
            continue;
        }
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const uint32_t votes = __ballot_sync(FULL, here);
        if (lane == 0) s.ids[warp] = __popc(votes);
        __syncthreads();
        uint64_t before = seen + __popc(votes & ((1u << lane) - 1));
        for (int w = 0; w < warp; w++) before += s.ids[w];
        if (here && before + 1 == rank) s.found = id;
        __syncthreads();
        return s.found;
    }
    return EVERY;
}

// The smallest set of kept tokens, by descending logit and then ascending id, whose weights reach `limit`. All tokens of one logit
// weigh the same: `weight(logit)`.
template <class T, class W> DEVICE Cut select(Shared& s, const Row<T>& row, const Cut& kept, uint64_t limit, W weight) {
    uint32_t edge = 0;
    uint64_t above = 0, at = 0;
    for (int shift = 30; shift >= 0; shift -= BITS) {
        uint64_t weights[DIGITS] = {};
        row.each([&](int id, float logit) {
            const uint32_t key = key_of(logit);
            if (uint64_t(key ^ edge) >> (shift + BITS) == 0 && kept.keeps(key, id)) {
                const uint64_t w = weight(logit);
                const int digit = key >> shift & (DIGITS - 1);
#pragma unroll
                for (int j = 0; j < DIGITS; j++) weights[j] += digit == j ? w : 0;
            }
        });
        block_sums(s, weights);
        int digit = DIGITS - 1;
        for (; digit > 0 && above + s.totals[digit] < limit; digit--) above += s.totals[digit];
        at = s.totals[digit];
        edge |= uint32_t(digit) << shift;
    }
    const uint64_t each = weight(logit_of(edge)), missing = limit > above ? limit - above : 1;
    if (each == 0 || missing > at - each) return {edge, edge == kept.key ? kept.last : EVERY};
    return {edge, nth_of_key(s, row, kept, edge, (missing + each - 1) / each)};
}

template <class T> DEVICE Cut cut(Shared& s, const Row<T>& row, const Settings& set) {
    Cut cut = {0, EVERY};
    if (set.top_k > 0 && set.top_k < uint32_t(row.v)) cut = select(s, row, cut, set.top_k, [](float) { return uint64_t(1); });
    if (set.top_p < 1.f) {
        const auto units = [&](float logit) { return row.units(logit); };
        uint64_t total[1] = {0};
        row.each([&](int id, float logit) { total[0] += cut.keeps(key_of(logit), id) ? units(logit) : 0; });
        block_sums(s, total);
        const uint64_t limit = uint64_t(ceil(double(set.top_p) * double(s.totals[0])));
        cut = select(s, row, cut, limit > 0 ? limit : 1, units);
    }
    return cut;
}

// The kept token with the largest q / e, e = -ln u.
template <class T> DEVICE int race(Shared& s, const Row<T>& row, const Cut& cut, const Settings& set) {
    constexpr uint32_t SAMPLE = 4;  // the stream of src/base/rng.rs
    const uint32_t high = set.step[1], key0 = set.seed[0] ^ (high << 16 | high >> 16);
    double best = -1.0;
    int winner = 0;
    float bar = 0.f;  // what some token of this warp has surely reached
    row.each([&](int id, float logit) {
        if (!cut.keeps(key_of(logit), id)) return;
        const float mass = row.mass(logit);
        if (!(mass >= set.min_p)) return;
        const Words words = random_words(key0, set.seed[1], SAMPLE, set.step[0], uint64_t(id));
        // e >= 1 - u >= this, so most tokens lose without a logarithm.
        const float least = float(~words.w[0] >> 8) * (1.f / (1 << 24));
        if (mass < bar * least) return;
        const uint64_t bits = uint64_t(words.w[0]) << 32 | words.w[1];
        const double u = (double(bits >> 12) + 0.5) * (1.0 / double(1ull << 52));
        const double score = double(mass) / -log(u);
        if (score > best) {
            best = score, winner = id;
            bar = float(score) * 0.99999f;
        }
    });
    const auto keep_larger = [&](double score, int id) {
        if (score > best || (score == best && id < winner)) best = score, winner = id;
    };
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const double score = __shfl_xor_sync(FULL, best, offset);
        keep_larger(score, __shfl_xor_sync(FULL, winner, offset));
    }
    if (lane == 0) s.scores[warp] = best, s.ids[warp] = winner;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) keep_larger(s.scores[w], s.ids[w]);
    return winner;
}

template <class T> DEVICE void sample(int* ids, float* logprobs, const T* logits, const int* settings, int v, int stride) {
    SHARED(Shared, s, [1]);
    const Settings set = settings_of(settings + blockIdx.x * 8);
    Row<T> row = {logits + int64_t(blockIdx.x) * stride, v, aligned16(logits, stride), 0.f, __fdiv_rn(1.f, set.temperature)};

    // The largest logit, the lowest id on ties.
    uint64_t top = 0;
    row.each([&](int id, float logit) {
        const uint64_t place = uint64_t(key_of(logit)) << 32 | uint32_t(~id);
        top = place > top ? place : top;
    });
    top = block_max(s[0], top);
    row.largest = logit_of(uint32_t(top >> 32));
    int id = int(~uint32_t(top));
    if (set.temperature > 0.f) id = race(s[0], row, cut(s[0], row, set), set);

    float sum = 0.f;
    row.each([&](int, float logit) { sum += exp_of_cpu(__fsub_rn(logit, row.largest)); });
    sum = block_sum<THREADS>(sum, s[0].floats);
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = id;
        logprobs[blockIdx.x] = get(row.logits[id]) - (row.largest + logf(sum));
    }
}

KERNEL(sample_f32, (1024), int* ids, float* logprobs, const float* logits, const int* settings, int v, int stride) {
    sample(ids, logprobs, logits, settings, v, stride);
}
KERNEL(sample_bf16, (1024), int* ids, float* logprobs, const bf16* logits, const int* settings, int v, int stride) {
    sample(ids, logprobs, logits, settings, v, stride);
}
