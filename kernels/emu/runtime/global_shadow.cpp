// The checker of global memory, over the heap's shadows. Each two bytes remember who wrote and who read last: launch, block,
// thread and the thread's clock; where bytes are accessed one by one, each byte does.
#include "global_shadow.h"

#include <deque>
#include <mutex>

#include "fault.h"
#include "heap.h"
#include "launch.h"

namespace emu {

namespace {

// A LastAccess word: launch (18 bits), block (22), thread (10), atomic (1), clock (13). Clocks beyond 13 bits stay at the
// largest, which stands for "unknown": such accesses are not compared within a block.
constexpr uint64_t CLOCK_LIMIT = (1 << 13) - 1;
struct Access64 {
    uint32_t launch, block, thread, clock;
    bool atomic;
    static Access64 unpack(uint64_t w) {
        return {uint32_t(w >> 46), uint32_t(w >> 24 & 0x3fffff), uint32_t(w >> 14 & 0x3ff), uint32_t(w & CLOCK_LIMIT),
                bool(w >> 13 & 1)};
    }
};
uint64_t pack(uint32_t launch, uint32_t block, uint32_t thread, bool atomic, uint32_t clock) {
    return uint64_t(launch & 0x3ffff) << 46 | uint64_t(block & 0x3fffff) << 24 | uint64_t(thread) << 14 |
           uint64_t(atomic) << 13 | std::min<uint64_t>(clock, CLOCK_LIMIT);
}

// Pairs of bytes that were accessed singly. `SPLIT` in both words of a pair says: the rest of `write` is an index.
constexpr uint64_t SPLIT = 0x3ffffull << 46;
struct SplitPairs {
    std::mutex mutex;
    std::deque<LastAccess> bytes;  // two for each split pair; a deque, so that they stay where they are
};
SplitPairs split_pairs;

bool is_split(const LastAccess& a) { return a.read == SPLIT; }
LastAccess* split(LastAccess& pair) {
    std::lock_guard<std::mutex> guard(split_pairs.mutex);
    const LastAccess before = pair;
    const size_t index = split_pairs.bytes.size();
    split_pairs.bytes.push_back(before);
    split_pairs.bytes.push_back(before);
    pair = {SPLIT | index, SPLIT};
    return &split_pairs.bytes[index];
}
LastAccess& byte_of(LastAccess& pair, size_t parity) {
    if (!is_split(pair)) split(pair);
    std::lock_guard<std::mutex> guard(split_pairs.mutex);
    return split_pairs.bytes[(pair.write & ~SPLIT) + parity];
}

const char* verb(Access kind) { return kind == Access::read ? "read" : kind == Access::write ? "write" : "atomic"; }

// Whether an earlier access, which conflicts, is not ordered before this one.
bool unordered(Block& b, Lane& lane, uint64_t word, Access kind) {
    if (!word) return false;
    const Access64 other = Access64::unpack(word);
    if (other.launch != (b.launch->id & 0x3ffff)) return false;
    if (kind == Access::atomic && other.atomic) return false;
    const bool unknown = other.clock == CLOCK_LIMIT;
    if (other.block != (b.linear_index & 0x3fffff))
        return !b.launch->order.ordered(lane, other.block, other.thread, unknown ? 0 : other.clock);
    return other.thread != lane.index && !unknown && lane.view[other.thread] < other.clock;
}

void touch(Block& b, Lane& lane, LastAccess& last, const char* p, Access kind, uint64_t mine, const Location* at,
           void* code) {
    uint64_t& own = kind == Access::read ? last.read : last.write;
    if (own == mine) return;
    const bool after_write = unordered(b, lane, last.write, kind);
    if (after_write || (kind != Access::read && unordered(b, lane, last.read, kind))) {
        const Access64 other = Access64::unpack(after_write ? last.write : last.read);
        const bool same_block = other.block == (b.linear_index & 0x3fffff);
        const std::string who = same_block
                                    ? formatted("thread %u of the same block", other.thread)
                                    : formatted("thread %u of block #%u of the same launch", other.thread, other.block);
        fail_at(at, code,
                formatted("RACE: this %s of %s is not ordered after the %s by %s", verb(kind), heap_describe(p).c_str(),
                          after_write ? "write" : "read", who.c_str()));
    }
    own = mine;
}

// All bytes must belong to a buffer of this device; those that are read must be initialised.
void check_state(Block& b, const char* p, uint32_t size, Access kind, const Location* at, void* code) {
    uint8_t* state = heap_state + heap_offset(p);
    for (uint32_t i = 0; i < size; i++) {
        if (state[i] == INITIALISED) continue;
        if (state[i] == OUTSIDE)
            fail_at(at, code,
                    formatted("OUT OF BOUNDS: global %s of %u bytes: %s", verb(kind), size, heap_describe(p + i).c_str()));
        if (kind != Access::write)
            fail_at(
                at, code,
                formatted("UNINITIALISED: %s of %s, which nothing has written", verb(kind), heap_describe(p + i).c_str()));
        state[i] = INITIALISED;
    }
    const uint16_t owner = heap_owner[heap_offset(p) / HEAP_PAGE];
    if (owner != b.launch->device + 1)
        fail_at(at, code,
                formatted("global %s of memory that belongs to device %d, not to device %d", verb(kind), owner - 1,
                          b.launch->device));
}

}  // namespace

void check_global(Lane& lane, const void* pointer, uint32_t size, Access kind, const Location* at, void* code) {
    Block& b = *block;
    b.accesses++;
    const char* p = static_cast<const char*>(pointer);
    if (!heap_contains(p))
        fail_at(
            at, code,
            formatted("OUT OF BOUNDS: global %s at %p, which is no device memory", verb(kind), static_cast<const void*>(p)));
    check_state(b, p, size, kind, at, code);
    const uint64_t mine = pack(b.launch->id, b.linear_index, lane.index, kind == Access::atomic, lane.clock);
    size_t offset = heap_offset(p);
    const size_t end = offset + size;
    while (offset < end) {
        LastAccess& pair = heap_accesses[offset / 2];
        const bool whole = offset % 2 == 0 && end - offset >= 2;
        if (whole && !is_split(pair)) {
            touch(b, lane, pair, heap_base + offset, kind, mine, at, code);
            offset += 2;
            continue;
        }
        touch(b, lane, byte_of(pair, offset % 2), heap_base + offset, kind, mine, at, code);
        offset++;
    }
}

}  // namespace emu
