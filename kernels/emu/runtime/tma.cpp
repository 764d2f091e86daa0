// TMA: boxes of a tensor copied to and from shared memory, with swizzle and with zeros for what lies outside. Loads land in
// any order, when everything else waits or when the seed says so; stores read shared memory as late as they may.
#include "fault.h"
#include "global_shadow.h"
#include "mbarrier.h"
#include "scheduler.h"

namespace emu {

// Calls f(global address, or null outside the tensor; shared address; bytes) for each element of the box.
template <class F>
static void walk(Block& b, const TensorMapFields& map, const int* box, uint32_t shared, F f) {
    uint32_t rows = 1;
    for (uint32_t d = 1; d < map.rank; d++) rows *= map.box[d];
    const uint32_t row_bytes = map.box[0] * map.element;
    for (uint32_t row = 0; row < rows; row++) {
        bool inside = true;
        int64_t offset = 0;
        uint32_t rest = row;
        for (uint32_t d = 1; d < map.rank; d++) {
            const int64_t x = box[d] + int64_t(rest % map.box[d]);
            rest /= map.box[d];
            inside &= x >= 0 && uint64_t(x) < map.size[d];
            offset += x * int64_t(map.stride[d]) * 16;
        }
        for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16) {
            char* to = b.shared + swizzled(shared + row * row_bytes + chunk, map.swizzle);
            const int64_t first = box[0] + int64_t(chunk / map.element), per_chunk = 16 / map.element;
            if (inside && first >= 0 && uint64_t(first + per_chunk) <= map.size[0]) {
                f(map.base + offset + first * map.element, to, 16u);
                continue;
            }
            for (int64_t e = 0; e < per_chunk; e++) {
                const int64_t x = first + e;
                const bool in = inside && x >= 0 && uint64_t(x) < map.size[0];
                f(in ? map.base + offset + x * map.element : nullptr, to + e * map.element, uint32_t(map.element));
            }
        }
    }
}
static uint32_t box_bytes(const TensorMapFields& map) {
    uint32_t n = map.element;
    for (uint32_t d = 0; d < map.rank; d++) n *= map.box[d];
    return n;
}
static const TensorMapFields& require_map(const void* p, int rank, Location at) {
    auto& map = *static_cast<const TensorMapFields*>(p);
    if (map.magic != TENSOR_MAP_MAGIC) fail(at, "TMA: not a tensor map");
    if (int(map.rank) != rank) fail(at, "TMA: an instruction of rank %d on a tensor map of rank %u", rank, map.rank);
    return map;
}
static void require_alignment(Block& b, uint32_t offset, const TensorMapFields& map, const char* what, Location at) {
    if (offset % 128) fail(at, "MISALIGNED %s: %s is not aligned to 128 bytes", what, b.describe_shared(offset).c_str());
    const uint32_t pattern = map.swizzle ? 128u << map.swizzle : 128;  // bytes after which the swizzle repeats
    if (offset % pattern)
        fail(at, "MISALIGNED %s: with a %u-byte swizzle %s must be aligned to %u bytes", what, 16u << map.swizzle,
             b.describe_shared(offset).c_str(), pattern);
}

void tma_load(void* to, const void* map_pointer, uint64_t* barrier, const int* box, int rank, Location at) {
    Block& b = *block;
    Lane& l = *current();
    const TensorMapFields& map = require_map(map_pointer, rank, at);
    const uint32_t bytes = box_bytes(map), offset = require_shared(to, bytes, "TMA load", at);
    require_alignment(b, offset, map, "TMA load", at);
    const Mbarrier& m = require_mbarrier(barrier, at);
    if (!m.fenced)
        fail(at,
             "PROXY: the TMA load signals the mbarrier in %s, which thread %u initialised without a fence_mbarrier_init "
             "after it",
             b.describe_shared(b.offset_of(barrier)).c_str(), m.initialiser);
    if (b.checked) {
        walk(b, map, box, offset, [&](char* global, char*, uint32_t n) {
            if (global) check_global(l, global, n, Access::read, &at, nullptr);
        });
        const uint32_t agent = b.clocks.loads_of(uint32_t(&m - b.mbarriers.data()));
        check_shared_async(l, to, bytes, Access::write, agent, m.phase + 1, Proxy::async, at);
    }
    memset(to, 0xff, bytes);
    BulkLoad load{map, to, {}, barrier, bytes};
    std::copy(box, box + rank, load.box);
    b.loads.push_back(load);
    if (b.early)
        while (complete_one_load(b)) continue;
}

bool complete_one_load(Block& b) {
    if (b.loads.empty()) return false;
    const size_t i = b.random ? random_bits(b) % b.loads.size() : 0;
    const BulkLoad load = b.loads[i];
    b.loads.erase(b.loads.begin() + long(i));
    walk(b, load.map, load.box, b.offset_of(load.to), [&](const char* global, char* shared, uint32_t n) {
        if (global) memcpy(shared, global, n);
        else memset(shared, load.map.nan_fill ? 0xff : 0, n);
    });
    mbarrier_bytes_landed(load.barrier, load.bytes);
    return true;
}

void tma_store(const void* map_pointer, const void* from, const int* box, int rank, Location at) {
    Block& b = *block;
    Lane& l = *current();
    const TensorMapFields& map = require_map(map_pointer, rank, at);
    const uint32_t bytes = box_bytes(map), offset = require_shared(from, bytes, "TMA store", at);
    require_alignment(b, offset, map, "TMA store", at);
    if (b.checked)
        check_shared_async(l, from, bytes, Access::read, b.clocks.stores_of(l.index), l.stores.committed + 1, Proxy::async,
                           at);
    BulkStore store{map, from, {}, at};
    std::copy(box, box + rank, store.box);
    l.stores.start(store);
    l.at = at;
}
void tma_store_commit(Location) { current()->stores.commit(); }

// Waiting for the reads alone is done the same way: on the GPU, too, shared memory may be reused then. What differs is who
// may read the tensor afterwards, and nobody in the same launch should.
void tma_store_wait(int groups_left, bool, Location) {
    Block& b = *block;
    Lane& l = *current();
    l.stores.complete(groups_left, [&](const BulkStore& store) {
        walk(b, store.map, store.box, b.offset_of(store.from), [&](char* global, const char* shared, uint32_t n) {
            if (!global) return;
            if (b.checked) check_global(l, global, n, Access::write, &store.at, nullptr);
            memcpy(global, shared, n);
        });
    });
    l.stores_read = l.stores.completed;
}

}  // namespace emu
