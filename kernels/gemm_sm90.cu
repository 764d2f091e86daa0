// Products of bf16 matrices on Hopper: the twin of gemm_nt.cu, gemm_nn.cu and gemm_tn.cu for H100 and H200.
//
//   NT  y[m, n] = sum_k x[m, k] w[n, k] (+ bias[n]) (+ residual[m, n])
//   NN  dx[m, k] (=|+=) sum_n dy[m, n] w[n, k]
//   TN  dw[n, k] (=|+=) sum_m dy[m, n] x[m, k]
//   gated  y[m, n] = g sigmoid(g) u,  g = sum_k x[m, k] w[n, k],  u = sum_k x[m, k] w[N + n, k]        w [2N, K]: gate, then up
//
// A persistent block computes tile after tile of 64 CONSUMERS x BN outputs. One thread of the first warpgroup, the producer, has TMA bring
// stages of 64 summed indices, 128-byte swizzle, into a ring of STAGES slots; each of the other warpgroups multiplies 64 rows by BN columns
// with wgmma (m64nBNk16), operands as they lie (K-major or MN-major). `full` barriers count TMA's bytes, `empty` ones the consumers' warps.
// One stage's products run while the stage before it is handed back; the producer goes on to the next tile during the epilogue.
//
// Numerics. Every output is one chain of k16 products over the summed index in ascending order, in the tensor core's precision,
// starting from zero or from what is there, then over zeros up to the next multiple of 64; then + bias, + residual, one rounding.
// A gated product rounds g and u as if they had been written, so it has the bits of NT and swiglu.cu. Neither tile nor rows change a bit; the bits are not those of mma.sync, so who has to choose must not look at the number of rows.
//
// Epilogue: the sums of a warpgroup go, 128 bytes of columns at a time, through one of two buffers that TMA stores from (`mapped`), or
// from which threads copy where TMA cannot write: outputs of any alignment. Biases and residuals of 128 columns are loaded at once, the first
// while the products run. In a gated product half of a stage's columns are gate's, half up's, so that a thread has both.
//
// Cost: 2 I J L flops; (I L + J L + I J) elements from memory if the level-2 cache keeps what a band of tiles shares. By ptxas and SASS,
// nothing measured yet:
//
//   tile      consumers  registers                     shared    blocks per multiprocessor   expected limiter
//   64 x 32       1       48                           105 KiB   2                           memory: 28 KiB of weights in flight a block
//   128 x 128     2      168: producer 40, others 232  161 KiB   1                           level-2 cache (64 bytes a cycle), then tensor cores
//   128 x 256     2      168: producer 40, others 232  225 KiB   1                           tensor cores (level-2 cache: 48 bytes a cycle), then power
//
// A stage of 128 x 256 is 1024 cycles of the tensor cores; its loop is 4 HGMMA and some 30 other instructions in each consumer's warps.
// Both consumers end a tile together, so the epilogue (300 instructions a warp, about 800 cycles; 600 instructions and 1700 cycles with
// a residual) is not hidden: 1 to 3% where L = 4096. Without clusters each block brings both operands by itself; multicast to pairs
// would take a third of that from the level-2 cache.
//
// Oracle: src/ops/gemm.rs.
#define SM90A
#include "gemm_plan.cuh"
#include "logistic.cuh"
#include "wgmma.cuh"

constexpr int DEPTH = 64;             // summed indices of a stage: 128 bytes, the swizzle's width
constexpr int BOX = 64 * DEPTH;       // elements of 64 rows of 128 bytes
constexpr int GROUP_BYTES = 1024;     // eight of them
constexpr int WARPGROUP = 128;        // threads
constexpr int BUFFER = 64 * 128;      // bytes of an epilogue buffer

template <int CONSUMERS_, int BN_, int STAGES_> struct Plan {
    static constexpr int CONSUMERS = CONSUMERS_, BM = 64 * CONSUMERS, BN = BN_, STAGES = STAGES_;
    static constexpr int STAGE = (BM + BN) * DEPTH;      // elements
    static constexpr int BUFFERS = CONSUMERS > 1 ? 2 : 1;  // for the epilogue, of each consumer
};

struct Operands {
    const TensorMap *left, *right;
};

// The ring's state, which the producer and each consumer advance alike.
template <int STAGES> struct Slot {
    int index = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next() {
        if (++index == STAGES) index = 0, phase ^= 1;
    }
};

// Starts bringing one operand's stage: FREE free indices from `first` on, summed indices from `begin` on.
template <Along ALONG, int FREE> DEVICE void bring(bf16* to, const TensorMap* map, uint64_t* full, int first, int begin) {
    if constexpr (ALONG == Along::summed) {
        tma_load_2d(to, map, full, begin, first);
    } else {
        static_assert(FREE % 64 == 0);
#pragma unroll
        for (int i = 0; i < FREE / 64; i++) tma_load_2d(to + i * BOX, map, full, first + 64 * i, begin);
    }
}

// Describes an operand's stage. What comes `n` elements later is described by the same plus n / 8: addresses count 16 bytes.
template <Along ALONG> DEVICE uint64_t describe(const bf16* stage) {
    return wgmma_descriptor(stage, ALONG == Along::summed ? 16 : BOX * 2, GROUP_BYTES);
}
// From one step of 16 summed indices to the next.
template <Along ALONG> constexpr int STEP = (ALONG == Along::summed ? 16 : 16 * 64) / 8;

// Columns of the output that a tile has.
template <class P, bool GATED> constexpr int OUT = GATED ? P::BN / 2 : P::BN;

template <class P, Along LEFT, Along RIGHT, bool GATED>
DEVICE void produce(bf16* ring, uint64_t* full, uint64_t* empty, const Operands& from, int rows, int cols, int stages, int tiles) {
    prefetch_tensor_map(from.left);
    prefetch_tensor_map(from.right);
    Slot<P::STAGES> slot;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Corner at = corner<P::BM, OUT<P, GATED>>(tile, rows, cols);
        for (int stage = 0; stage < stages; stage++, slot.next()) {
            mbarrier_wait(&empty[slot.index], slot.phase ^ 1);
            mbarrier_arrive_expect_tx(&full[slot.index], P::STAGE * 2);
            bf16* to = ring + slot.index * P::STAGE;
            bring<LEFT, P::BM>(to, from.left, &full[slot.index], at.row, stage * DEPTH);
            bring<RIGHT, OUT<P, GATED>>(to + P::BM * DEPTH, from.right, &full[slot.index], at.col, stage * DEPTH);
            if constexpr (GATED)
                bring<RIGHT, P::BN / 2>(to + (P::BM + P::BN / 2) * DEPTH, from.right, &full[slot.index], cols + at.col, stage * DEPTH);
        }
    }
}

// One tile's sums of a consumer: 64 rows.
template <class P, Along LEFT, Along RIGHT>
DEVICE void multiply(float (&sums)[P::BN / 2], const bf16* ring, uint64_t* full, uint64_t* empty, Slot<P::STAGES>& slot, int consumer, int stages) {
    const int lane = threadIdx.x % WARP;
    const uint64_t first_left = describe<LEFT>(ring + consumer * BOX), first_right = describe<RIGHT>(ring + P::BM * DEPTH);
    auto start = [&]() {
        mbarrier_wait(&full[slot.index], slot.phase);
        const uint64_t left = first_left + slot.index * (P::STAGE / 8), right = first_right + slot.index * (P::STAGE / 8);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < DEPTH / 16; step++)
            wgmma_bf16<P::BN, RIGHT == Along::free, LEFT == Along::free>(sums, left + step * STEP<LEFT>, right + step * STEP<RIGHT>, 1);
        wgmma_commit();
    };
    // The first stage stands alone, so that in the loop nothing but wgmma ever sets the sums: else ptxas runs them one by one.
    start();
    int before = slot.index;
    slot.next();
    for (int stage = 1; stage < stages; stage++, slot.next()) {
        start();
        // The stage before this one has been multiplied: its slot goes back, from each warp for its own part.
        wgmma_wait<1>();
        if (lane == 0) mbarrier_arrive(&empty[before]);
        before = slot.index;
    }
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(&empty[before]);
}

// Where a consumer's outputs go, and what is added to them.
template <class O> struct Output {
    O* y;
    const TensorMap* map;
    const bf16 *bias, *residual;
    int rows, cols, y_stride, residual_stride, mapped;

    // Whether what is added can be read two elements at a time.
    __device__ __forceinline__ bool in_words() const {
        return ((reinterpret_cast<uint64_t>(bias) | reinterpret_cast<uint64_t>(residual)) & 3) == 0 && residual_stride % 2 == 0;
    }
};

// Pairs of neighbouring elements, from `p` on every 8, of a row that ends after `count`.
template <bool WORDS, int N> DEVICE void load_pairs(uint32_t (&to)[N], const bf16* p, int count) {
#pragma unroll
    for (int j = 0; j < N; j++) {
        if constexpr (WORDS) to[j] = *reinterpret_cast<const uint32_t*>(p + 8 * j);
        else to[j] = join_bf16(8 * j < count ? p[8 * j] : put<bf16>(0.f), 8 * j + 1 < count ? p[8 * j + 1] : put<bf16>(0.f));
    }
}

// What a thread's outputs were; `row` and `col` are its first. In pairs where they are aligned and all there.
template <class O, int N> DEVICE void load_old(float (&sums)[N], const Output<O>& out, int row, int col) {
    if (reinterpret_cast<uint64_t>(out.y) % (2 * sizeof(O)) == 0 && out.y_stride % 2 == 0 && col + 2 * N - 6 <= out.cols) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const O* from = out.y + int64_t(min(row + 8 * half, out.rows - 1)) * out.y_stride + col;
#pragma unroll
            for (int j = 0; j < N / 4; j++) {
                float* to = &sums[4 * j + 2 * half];
                if constexpr (sizeof(O) == 4) {
                    const float2 pair = *reinterpret_cast<const float2*>(from + 8 * j);
                    to[0] = pair.x, to[1] = pair.y;
                } else {
                    const uint32_t pair = *reinterpret_cast<const uint32_t*>(from + 8 * j);
                    to[0] = low_bf16(pair), to[1] = high_bf16(pair);
                }
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) sums[i] = old_value(out.y, row + i / 2 % 2 * 8, col + i / 4 * 8 + i % 2, out.rows, out.cols, out.y_stride);
    }
}

// What is added to a thread's outputs in up to 128 columns: pairs of columns, for the upper and the lower of its rows.
template <int BN> struct Extras {
    static constexpr int COLS = BN < 128 ? BN : 128, PAIRS = COLS / 8;
    uint32_t bias[PAIRS], upper[PAIRS], lower[PAIRS];

    template <bool WORDS, class O> __device__ __forceinline__ void start(const Output<O>& out, int row, int col) {
        if (out.bias) load_pairs<WORDS>(bias, out.bias + col, out.cols - col);
        if (out.residual) {
            // Rows beyond the last read the last one: conditions would make each load wait for those before it.
            load_pairs<WORDS>(upper, out.residual + int64_t(min(row, out.rows - 1)) * out.residual_stride + col, out.cols - col);
            load_pairs<WORDS>(lower, out.residual + int64_t(min(row + 8, out.rows - 1)) * out.residual_stride + col, out.cols - col);
        }
    }
    // Starts the loads; `row` and `col` are the thread's first.
    template <class O> __device__ __forceinline__ void load(const Output<O>& out, int row, int col) {
        if (out.in_words() && col + COLS - 6 <= out.cols) start<true>(out, row, col);
        else start<false>(out, row, col);
    }
    // Adds those of COUNT pairs from `pair` on to the sums of so many pairs of columns, from `first` on.
    template <int COUNT, class O, int N>
    __device__ __forceinline__ void add(const Output<O>& out, float (&sums)[N], int first, int pair) const {
        if (out.bias)
#pragma unroll
            for (int j = 0; j < COUNT; j++)
#pragma unroll
                for (int i = 4 * (first + j); i < 4 * (first + j) + 4; i += 2)
                    sums[i] += low_bf16(bias[pair + j]), sums[i + 1] += high_bf16(bias[pair + j]);
        if (out.residual)
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                const int i = 4 * (first + j);
                sums[i] += low_bf16(upper[pair + j]), sums[i + 1] += high_bf16(upper[pair + j]);
                sums[i + 2] += low_bf16(lower[pair + j]), sums[i + 3] += high_bf16(lower[pair + j]);
            }
    }
};

// Writes a consumer's 64 rows from `row0` on, whose first extras are on their way. Row r of a buffer has its 16-byte chunks at their
// number xor r modulo 8, TMA's swizzle.
template <class P, class O>
DEVICE void write(const Output<O>& out, float (&sums)[P::BN / 2], Extras<P::BN>& extras, unsigned char* buffers, int consumer, int row0,
                  int col0) {
    constexpr int COLS = P::BN * int(sizeof(O)) < 128 ? P::BN : 128 / int(sizeof(O));  // columns that go through a buffer at a time
    constexpr int N = Vec<O>::N, PARTS = P::BN / COLS, PAIRS = COLS / 8;
    constexpr int BUFFERS = PARTS == 1 ? 1 : P::BUFFERS;
    static_assert(PARTS % BUFFERS == 0, "buffers take turns from tile to tile, too");
    const int thread = threadIdx.x % WARPGROUP, lane = thread % WARP, barrier = 1 + consumer;
    const int r = thread / WARP * 16 + lane / 4, c = lane % 4 * 2;  // this thread's first row and column
    const bool vector = aligned16(out.y, out.y_stride);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const int col = col0 + part * COLS, before = part * PAIRS % Extras<P::BN>::PAIRS;
        if (part > 0 && before == 0) extras.load(out, row0 + r, col + c);
        extras.template add<PAIRS>(out, sums, part * PAIRS, before);
        unsigned char* buffer = buffers + part % BUFFERS * BUFFER;
        // The last store from this buffer has read it.
        if (thread == 0) tma_store_wait_read<BUFFERS - 1>();
        named_barrier_sync(barrier, WARPGROUP);
#pragma unroll
        for (int j = 0; j < PAIRS; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int i = 4 * (part * PAIRS + j) + 2 * half, chunk = (8 * j + c) / N ^ (r & 7);
                unsigned char* to = buffer + (r + 8 * half) * 128 + chunk * 16 + c % N * int(sizeof(O));
                if constexpr (sizeof(O) == 4) *reinterpret_cast<float2*>(to) = make_float2(sums[i], sums[i + 1]);
                else *reinterpret_cast<uint32_t*>(to) = pack_bf16(sums[i], sums[i + 1]);
            }
        if (out.mapped) {
            fence_proxy_async();
            named_barrier_sync(barrier, WARPGROUP);
            if (thread == 0) {
                if (row0 < out.rows && col < out.cols) tma_store_2d(out.map, buffer, col, row0);
                tma_store_commit();
            }
        } else {
            named_barrier_sync(barrier, WARPGROUP);
            for (int item = thread; item < 64 * COLS / N; item += WARPGROUP) {
                const int down = item / (COLS / N), chunk = item % (COLS / N), first = col + chunk * N;
                if (row0 + down >= out.rows || first >= out.cols) continue;
                float v[N];
                Vec<O>::load(v, reinterpret_cast<const O*>(buffer + down * 128 + ((chunk ^ (down & 7)) * 16)));
                store_part<O>(out.y + int64_t(row0 + down) * out.y_stride + first, v, out.cols - first, vector);
            }
        }
    }
}

// SwiGLU of a thread's sums: those of gate, then those of up, of the same columns.
template <int N> DEVICE void gate(float (&y)[N], const float (&sums)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float g = get(put<bf16>(sums[i])), u = get(put<bf16>(sums[N + i]));
        y[i] = g * sigmoid(g) * u;
    }
}

template <class P, Along LEFT, Along RIGHT, class O, bool GATED = false>
DEVICE void gemm(const Output<O>& out, const Operands& from, int depth, int add) {
    SHARED_DYNAMIC(bf16, ring, 1024);
    SHARED(uint64_t, full, [P::STAGES]);
    SHARED(uint64_t, empty, [P::STAGES]);
    if (threadIdx.x == 0) {
        for (int i = 0; i < P::STAGES; i++) mbarrier_init(&full[i], 1), mbarrier_init(&empty[i], P::CONSUMERS * WARPGROUP / WARP);
        fence_mbarrier_init();
    }
    __syncthreads();
    const int rows = out.rows, cols = out.cols, stages = (depth + DEPTH - 1) / DEPTH;
    const int tiles = (rows + P::BM - 1) / P::BM * ((cols + OUT<P, GATED> - 1) / OUT<P, GATED>);
    if (threadIdx.x < WARPGROUP) {
        if constexpr (P::CONSUMERS > 1) registers_decrease<40>();
        if (threadIdx.x == 0) produce<P, LEFT, RIGHT, GATED>(ring, full, empty, from, rows, cols, stages, tiles);
        return;
    }
    if constexpr (P::CONSUMERS > 1) registers_increase<232>();
    // From one lane, so that the compiler knows it to be the same in all: descriptors then live in uniform registers.
    const int consumer = __shfl_sync(FULL, threadIdx.x / WARPGROUP, 0) - 1, lane = threadIdx.x % WARP;
    unsigned char* buffers = reinterpret_cast<unsigned char*>(ring + P::STAGES * P::STAGE) + consumer * P::BUFFERS * BUFFER;
    Slot<P::STAGES> slot;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Corner at = corner<P::BM, OUT<P, GATED>>(tile, rows, cols);
        const int row0 = at.row + 64 * consumer;
        float sums[P::BN / 2];
        const int row = row0 + threadIdx.x % WARPGROUP / WARP * 16 + lane / 4, col = at.col + lane % 4 * 2;
        Extras<OUT<P, GATED>> extras;
        const bool any = row0 < rows;  // else the rows that stand for those beyond the last are another consumer's
        if (add && any) {
            load_old(sums, out, row, col);
        } else {
#pragma unroll
            for (int i = 0; i < P::BN / 2; i++) sums[i] = 0.f;
        }
        if (any && !GATED) extras.load(out, row, col);  // come while the products run
        multiply<P, LEFT, RIGHT>(sums, ring, full, empty, slot, consumer, stages);
        if (!any) continue;
        if constexpr (GATED) {
            float y[P::BN / 4];
            gate(y, sums);
            write<Plan<P::CONSUMERS, P::BN / 2, P::STAGES>, O>(out, y, extras, buffers, consumer, row0, at.col);
        } else {
            write<P, O>(out, sums, extras, buffers, consumer, row0, at.col);
        }
    }
    if (threadIdx.x % WARPGROUP == 0) tma_store_wait<0>();
}

using Plan64x32 = Plan<1, 32, 8>;     // for few rows: bound by reading the weights
using Plan128x128 = Plan<2, 128, 4>;
using Plan128x256 = Plan<2, 256, 4>;

template <class P, class O>
DEVICE void gemm_nt(O* y, const bf16* bias, const bf16* residual, const TensorMap* x, const TensorMap* w, const TensorMap* to, int m, int n,
                    int k, int y_stride, int residual_stride, int mapped) {
    gemm<P, Along::summed, Along::summed>(Output<O>{y, to, bias, residual, m, n, y_stride, residual_stride, mapped}, {x, w}, k, 0);
}
template <class P>
DEVICE void gemm_gated(bf16* y, const TensorMap* x, const TensorMap* w, const TensorMap* to, int m, int n, int k, int y_stride, int mapped) {
    gemm<P, Along::summed, Along::summed, bf16, true>({y, to, nullptr, nullptr, m, n, y_stride, 0, mapped}, {x, w}, k, 0);
}
template <class P, class O>
DEVICE void gemm_nn(O* dx, const TensorMap* dy, const TensorMap* w, const TensorMap* to, int m, int n, int k, int dx_stride, int mapped, int add) {
    gemm<P, Along::summed, Along::free>(Output<O>{dx, to, nullptr, nullptr, m, k, dx_stride, 0, mapped}, {dy, w}, n, add);
}
template <class P, class O>
DEVICE void gemm_tn(O* dw, const TensorMap* dy, const TensorMap* x, const TensorMap* to, int m, int n, int k, int dw_stride, int mapped, int add) {
    gemm<P, Along::free, Along::free>(Output<O>{dw, to, nullptr, nullptr, n, k, dw_stride, 0, mapped}, {dy, x}, m, add);
}

KERNEL(gemm_nt_64x32_sm90_f32, (256, 2), float* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan64x32>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_nt_64x32_sm90_bf16, (256, 2), bf16* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan64x32>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_nt_128x128_sm90_f32, (384, 1), float* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan128x128>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_nt_128x128_sm90_bf16, (384, 1), bf16* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan128x128>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_nt_128x256_sm90_f32, (384, 1), float* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan128x256>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_nt_128x256_sm90_bf16, (384, 1), bf16* y, NULLABLE const bf16* bias, NULLABLE const bf16* residual, TMAP x, TMAP w, TMAP to,
       int m, int n, int k, int y_stride, int residual_stride, int mapped) {
    gemm_nt<Plan128x256>(y, bias, residual, &x, &w, &to, m, n, k, y_stride, residual_stride, mapped);
}
KERNEL(gemm_gated_64x32_sm90_bf16, (256, 2), bf16* y, TMAP x, TMAP w, TMAP to, int m, int n, int k, int y_stride, int mapped) {
    gemm_gated<Plan64x32>(y, &x, &w, &to, m, n, k, y_stride, mapped);
}
KERNEL(gemm_gated_128x128_sm90_bf16, (384, 1), bf16* y, TMAP x, TMAP w, TMAP to, int m, int n, int k, int y_stride, int mapped) {
    gemm_gated<Plan128x128>(y, &x, &w, &to, m, n, k, y_stride, mapped);
}
KERNEL(gemm_gated_128x256_sm90_bf16, (384, 1), bf16* y, TMAP x, TMAP w, TMAP to, int m, int n, int k, int y_stride, int mapped) {
    gemm_gated<Plan128x256>(y, &x, &w, &to, m, n, k, y_stride, mapped);
}
KERNEL(gemm_nn_128x128_sm90_f32, (384, 1), float* dx, TMAP dy, TMAP w, TMAP to, int m, int n, int k, int dx_stride,
       int mapped, int add) {
    gemm_nn<Plan128x128>(dx, &dy, &w, &to, m, n, k, dx_stride, mapped, add);
}
KERNEL(gemm_nn_128x128_sm90_bf16, (384, 1), bf16* dx, TMAP dy, TMAP w, TMAP to, int m, int n, int k, int dx_stride,
       int mapped, int add) {
    gemm_nn<Plan128x128>(dx, &dy, &w, &to, m, n, k, dx_stride, mapped, add);
}
KERNEL(gemm_nn_128x256_sm90_f32, (384, 1), float* dx, TMAP dy, TMAP w, TMAP to, int m, int n, int k, int dx_stride,
       int mapped, int add) {
    gemm_nn<Plan128x256>(dx, &dy, &w, &to, m, n, k, dx_stride, mapped, add);
}
KERNEL(gemm_nn_128x256_sm90_bf16, (384, 1), bf16* dx, TMAP dy, TMAP w, TMAP to, int m, int n, int k, int dx_stride,
       int mapped, int add) {
    gemm_nn<Plan128x256>(dx, &dy, &w, &to, m, n, k, dx_stride, mapped, add);
}
KERNEL(gemm_tn_128x128_sm90_f32, (384, 1), float* dw, TMAP dy, TMAP x, TMAP to, int m, int n, int k, int dw_stride,
       int mapped, int add) {
    gemm_tn<Plan128x128>(dw, &dy, &x, &to, m, n, k, dw_stride, mapped, add);
}
KERNEL(gemm_tn_128x128_sm90_bf16, (384, 1), bf16* dw, TMAP dy, TMAP x, TMAP to, int m, int n, int k, int dw_stride,
       int mapped, int add) {
    gemm_tn<Plan128x128>(dw, &dy, &x, &to, m, n, k, dw_stride, mapped, add);
}
KERNEL(gemm_tn_128x256_sm90_f32, (384, 1), float* dw, TMAP dy, TMAP x, TMAP to, int m, int n, int k, int dw_stride,
       int mapped, int add) {
    gemm_tn<Plan128x256>(dw, &dy, &x, &to, m, n, k, dw_stride, mapped, add);
}
KERNEL(gemm_tn_128x256_sm90_bf16, (384, 1), bf16* dw, TMAP dy, TMAP x, TMAP to, int m, int n, int k, int dw_stride,
       int mapped, int add) {
    gemm_tn<Plan128x256>(dw, &dy, &x, &to, m, n, k, dw_stride, mapped, add);
}
