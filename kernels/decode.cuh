// What the decode kernels share: the list of their items, found on the device from lengths alone, and what is left of a chunk until all chunks of
// a sequence are merged.
#pragma once
#include "attention.cuh"
#include "reduce.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, CHUNK = 512, ROWS = 16, SEGMENT = 64;

// ---------------------------------------------------------------- items

struct Batch {
    const int* lens;
    const int* shares;        // of each sequence: how many chunks from its beginning on it has in common with the one before it
    int sequences, capacity;  // capacity: positions that the table has room for
    int together;             // sequences whose common chunks may be one item, a power of two up to 32
};
DEVICE bool length_fits(const Batch& of, int b) { return of.lens[b] >= 0 && of.lens[b] <= of.capacity; }
// A length that does not fit counts as none.
DEVICE int length_of(const Batch& of, int b) { return length_fits(of, b) ? of.lens[b] : 0; }
DEVICE int chunks_of(const Batch& of, int b) { return max((length_of(of, b) + CHUNK - 1) / CHUNK, 1); }
// Chunks that are somebody else's items.
DEVICE int shared_by(const Batch& of, int b) { return b % of.together == 0 ? 0 : of.shares[b]; }

// One chunk of some heads of `sequence` and of the `members - 1` sequences after it, which have the same keys there.
struct Item {
    int sequence, members, chunk, part;  // part: which heads
};
// Finds items by rising number: 32 sequences at a time, whose items are counted by a scan over the warp.
struct Search {
    int window, before;  // first of the 32 sequences, and the number of items before it
};
DEVICE bool next_item(Item& item, Search& at, int number, const Batch& of, int parts) {
    const int lane = threadIdx.x % WARP;
    for (; at.window < of.sequences; at.window += WARP) {
        const int b = at.window + lane;
        const bool exists = b < of.sequences;
        const int shared = exists ? shared_by(of, b) : 0, own = exists ? chunks_of(of, b) - shared : 0;
        int upto = own * parts;  // items of this and earlier sequences
#pragma unroll
        for (int d = 1; d < WARP; d *= 2) {
            const int other = __shfl_up_sync(FULL, upto, d);
            if (lane >= d) upto += other;
        }
        const int all = __shfl_sync(FULL, upto, WARP - 1), rank = number - at.before;
        if (rank < all) {
            const int owner = __popc(__ballot_sync(FULL, upto <= rank));
            const int inside = rank - __shfl_sync(FULL, upto - own * parts, owner);
            const int chunk = __shfl_sync(FULL, shared, owner) + inside / parts;
            // Whoever follows as long as it shares the chunk; the next 32 sequences begin with one that shares nothing.
            const uint32_t with = __ballot_sync(FULL, shared > chunk) >> owner >> 1;
            item = {at.window + owner, __ffs(~with), chunk, inside % parts};
            return true;
        }
        at.before += all;
    }
    return false;
}

// The pool's row of position `j`, -1 where the table names no page of the pool.
DEVICE int row_of(const int* table, int j, int page, int pages) {
    const int p = table[j / page];
    return p >= 0 && p < pages ? p * page + j % page : -1;
}

// ---------------------------------------------------------------- results

// How the softmax of some keys merges with that of later ones: sums and weighted values on the scale of the larger of two largest scores.
struct Weights {
    float top, old, fresh;
};
DEVICE Weights weigh(float top, float more) {
    const float now = fmaxf(top, more);
    return {now, exp2_approx(top - now), exp2_approx(more - now)};
}
DEVICE float merge(float value, float more, const Weights& by) { return fmaf(more, by.fresh, value * by.old); }

// Where results go: outputs, and of each sequence its row of partials.
template <class T> struct Results {
    T* o;
    float* partials;
    int o_stride, partials_stride, heads, size;
};
// The heads of an item: `rows` of them from `head` on, of `members` sequences from `first` on. Its rows are theirs in this order.
struct Team {
    int first, members, head, rows;
};
DEVICE int rows_of(const Team& team) { return team.members * team.rows; }
DEVICE int sequence_of(const Team& team, int row) { return team.first + row / team.rows; }
DEVICE int head_of(const Team& team, int row) { return team.head + row % team.rows; }

// Where a row's results of a chunk lie: in the output where it is the only chunk, in the partials otherwise.
template <class T> struct Place {
    T* o;
    float* part;
};
template <class T> DEVICE Place<T> place_of(const Results<T>& to, const Batch& of, const Team& team, int chunk, int row) {
    const int b = sequence_of(team, row), head = head_of(team, row);
    if (chunks_of(of, b) == 1) return {to.o + int64_t(b) * to.o_stride + head * to.size, nullptr};
    return {nullptr, to.partials + int64_t(b) * to.partials_stride + to.heads + int64_t(chunk * to.heads + head) * (to.size + 2)};
}
// Leaves column `c` of a row.
template <class T> DEVICE void leave(const Place<T>& at, int c, float value, float top, float total) {
    if (at.o) {
        at.o[c] = put<T>(value * (1.f / total));
        return;
    }
    if (c == 0) at.part[0] = top, at.part[1] = total;
    at.part[2 + c] = value;
}

// Merges the chunks of some heads of a sequence. `weights`: room in shared memory.
template <class T> DEVICE void merge_chunks(const Results<T>& to, const Batch& of, const Team& team, int b, float* weights) {
    const int heads = to.heads, size = to.size, width = size + 2, count_all = chunks_of(of, b), head = team.head, rows = team.rows;
    float* const chunks = to.partials + int64_t(b) * to.partials_stride + heads;
    T* const o = to.o + int64_t(b) * to.o_stride + head * size;
    // Eight threads find the largest score of a row.
    const int mine = threadIdx.x / 8;
    float top = -INFINITY;
    if (mine < rows)
        for (int c = threadIdx.x % 8; c < count_all; c += 8) top = fmaxf(top, chunks[int64_t(c * heads + head + mine) * width]);
    top = row_max(top);
    top = fmaxf(top, __shfl_xor_sync(FULL, top, 4));
    // Columns go to threads in turn; what a thread adds up over the segments lies where its result belongs: in chunk 0's part.
    for (int first = 0; first < count_all; first += SEGMENT) {
        const int count = min(SEGMENT, count_all - first);
        __syncthreads();
        if (mine < rows)
            for (int c = threadIdx.x % 8; c < count; c += 8)
                weights[mine * SEGMENT + c] = exp2_approx(chunks[int64_t((first + c) * heads + head + mine) * width] - top);
        __syncthreads();
        // Element 1 of a part is its sum, which is merged as the values are.
        for (int i = threadIdx.x; i < rows * (size + 1); i += THREADS) {
            const int row = i / (size + 1), c = i % (size + 1) + 1;
            float* part = chunks + int64_t(head + row) * width + c;
            float sum = first == 0 ? 0.f : *part;
#pragma unroll 4
            for (int n = 0; n < count; n++) sum = fmaf(part[int64_t(first + n) * heads * width], weights[row * SEGMENT + n], sum);
            *part = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * size; i += THREADS) {
        const int row = i / size, c = i % size;
        const float* part = chunks + int64_t(head + row) * width;
        o[row * size + c] = put<T>(part[2 + c] * (1.f / part[1]));
    }
}

// Once all of an item is left: merges the chunks of each sequence whose last one this was. `scratch`: ROWS * SEGMENT in shared memory.
template <class T> DEVICE void finish(const Results<T>& to, const Batch& of, const Team& team, float* scratch) {
    SHARED(int, last, [WARP]);
    if (team.members == 1 && chunks_of(of, team.first) == 1) return;
    __syncthreads();  // All is left, and the flags of the item before have been read.
    if (int(threadIdx.x) < team.members) {
        const int b = team.first + threadIdx.x, chunks = chunks_of(of, b);
        uint32_t* counter = reinterpret_cast<uint32_t*>(to.partials + int64_t(b) * to.partials_stride) + team.head;
        last[threadIdx.x] = chunks > 1 && atomic_add_acq_rel(counter, 1) == uint32_t(chunks - 1);
        if (last[threadIdx.x]) *counter = 0;
    }
    __syncthreads();
    for (int i = 0; i < team.members; i++)
        if (last[i]) merge_chunks(to, of, team, team.first + i, scratch);
}

// A sequence without keys: zeros; NaN if it is so because its length is out of range.
template <class T> DEVICE void finish_empty(const Results<T>& to, const Team& team, bool fits) {
    T* const o = to.o + int64_t(team.first) * to.o_stride + team.head * to.size;
    for (int i = threadIdx.x; i < team.rows * to.size; i += THREADS) o[i] = put<T>(fits ? 0.f : NAN);
}

// Parts of a chunk: each key-value head by 16 of its query heads.
DEVICE int parts_of(int heads, int group) { return heads / group * ((group + ROWS - 1) / ROWS); }
DEVICE Team team_of(const Item& item, int group) {
    const int tiles = (group + ROWS - 1) / ROWS, inside = item.part % tiles * ROWS;
    return {item.sequence, item.members, item.part / tiles * group + inside, min(ROWS, group - inside)};
}
