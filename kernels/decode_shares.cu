// How many chunks of 512 positions each decoding sequence has in common, from its beginning on, with the sequence before it in the batch.
//
//   shares[b] = the largest n for which b and b - 1 both fill n chunks and table[b] and table[b - 1] name the same pages for them
//
// shares, lens [B]; table [B, W] of page numbers, P positions a page. A page that is none of the pool's `pages` is shared by nobody; shares[0] = 0. Once a
// step, before the layers. A warp per sequence looks at 32 pages at a time until two differ. Bytes: 8 a page; 20 registers; the limiter is the
// latency of one launch and, at 4K positions of 64 a page, two turns of the loop. Oracle: src/ops/decode/shares.rs.
#include "kernel.cuh"

constexpr int THREADS = 128, CHUNK = 512;

KERNEL(decode_shares, (128), int* shares, const int* table, const int* lens, int sequences, int width, int page, int pages, int table_stride) {
    const int b = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (b >= sequences) return;
    const int *mine = table + int64_t(b) * table_stride, *other = mine - table_stride;
    const int before = b == 0 ? 0 : lens[b - 1], length = lens[b], capacity = width * page;
    const bool fit = before >= 0 && before <= capacity && length >= 0 && length <= capacity;
    const int full = fit ? min(length, before) / CHUNK : 0, most = (full * CHUNK + page - 1) / page;  // chunks that both fill, and their pages
    int same = 0;
    while (same < most) {
        const int p = same + lane, name = p < most ? mine[p] : -1;
        const uint32_t differ = __ballot_sync(FULL, name < 0 || name >= pages || other[p] != name);
        same += differ ? __ffs(differ) - 1 : WARP;
        if (differ) break;
    }
    if (lane == 0) shares[b] = min(full, same * page / CHUNK);
}
