// Collective operations of a warp: meeting, shuffles, votes, reductions and the warp's barrier.
#include "warp.h"

#include <algorithm>

#include "costs.h"
#include "fault.h"
#include "scheduler.h"

namespace emu {

[[noreturn]] static void diverged(const Lane& me, const Lane& other, const char* name, uint32_t mask, Location at) {
    fail(at, "WARP DIVERGENCE: lane %u is in %s with mask %08x here, while lane %u waits in %s with mask %08x at %s:%d",
         me.lane, name, mask, other.lane, other.operation_name, other.mask, short_name(other.at.file()), other.at.line());
}

void warp_collective(WarpOperation operation, const char* name, void* arguments, uint32_t mask, Location at) {
    Lane* me = current();
    Warp& w = *me->warp;
    const uint32_t bit = 1u << me->lane;
    if (!(mask & bit)) [[unlikely]]
        fail(at, "%s: lane %u calls it and is not in the mask %08x", name, me->lane, mask);
    const uint32_t all = w.count == 32 ? ~0u : (1u << w.count) - 1;
    if (mask & all & ~w.live) [[unlikely]]
        fail(at, "%s: the mask %08x names lanes that have left the kernel: %08x", name, mask, mask & all & ~w.live);
    mask &= all;
    me->operation = operation;
    me->operation_name = name;
    me->arguments = arguments;
    me->mask = mask;
    me->at = at;
    if (const uint32_t others = w.waiting & mask) {  // one is enough: the rest were compared when they arrived
        const Lane& other = *w.lanes[__builtin_ctz(others)];
        const bool together = other.operation == operation && other.mask == mask &&
                              (memcmp(&other.at, &at, sizeof at) == 0 || other.at.same(at));
        if (!together) [[unlikely]]
            diverged(*me, other, name, mask, at);
    }
    w.waiting |= bit;
    if ((w.waiting & mask) != mask) {
        set_waiting(*me, Wait::warp);
        yield();
        return;
    }
    w.waiting &= ~mask;
    if (block->costs && mask == w.live) [[unlikely]]
        block->costs->meet(w);
    operation(w, mask);
    for (uint32_t m = mask & ~bit; m; m &= m - 1) w.lanes[__builtin_ctz(m)]->wait = Wait::nothing;
    w.ready |= mask;
    if (block->random && (random_bits(*block) & 3) == 0) yield();
}

// ---- shuffles

struct ShuffleArguments {
    uint64_t in, out;
    Shuffle kind;
    int operand, width;
};
static void do_shuffle(Warp& w, uint32_t mask) {
    EMU_EACH_LANE(l, w, mask) {
        auto& a = *static_cast<ShuffleArguments*>(l.arguments);
        const int i = l.lane, first = i & ~(a.width - 1), end = first + a.width;
        int from = i;
        switch (a.kind) {
            case Shuffle::index: from = first + (a.operand & (a.width - 1)); break;
            case Shuffle::up:
                if (i - a.operand >= first) from = i - a.operand;
                break;
            case Shuffle::down:
                if (i + a.operand < end) from = i + a.operand;
                break;
            case Shuffle::exclusive_or:
                if ((i ^ a.operand) < end) from = i ^ a.operand;
                break;
        }
        if (from < 0 || from > 31 || !(mask >> from & 1)) [[unlikely]]
            fail(l.at, "shuffle: lane %d reads lane %d, which is not in the mask %08x", i, from, mask);
        a.out = static_cast<ShuffleArguments*>(w.lanes[from]->arguments)->in;
    }
}
uint64_t shuffle(uint64_t value, Shuffle kind, int operand, int width, uint32_t mask, Location at) {
    if (width < 1 || width > 32 || (width & (width - 1)))
        fail(at, "shuffle: the width %d is not a power of two up to 32", width);
    ShuffleArguments a{value, 0, kind, operand, width};
    warp_collective(do_shuffle, "a shuffle", &a, mask, at);
    return a.out;
}

// ---- votes and matches

struct VoteArguments {
    int predicate;
    uint32_t ballot, mask;
};
static void do_vote(Warp& w, uint32_t mask) {
    uint32_t ballot = 0;
    EMU_EACH_LANE(l, w, mask) ballot |= uint32_t(static_cast<VoteArguments*>(l.arguments)->predicate != 0) << l.lane;
    EMU_EACH_LANE(l, w, mask) * static_cast<VoteArguments*>(l.arguments) = {0, ballot, mask};
}
uint32_t vote(int predicate, Vote kind, uint32_t mask, Location at) {
    VoteArguments a{predicate, 0, 0};
    warp_collective(do_vote, "a vote", &a, mask, at);
    return kind == Vote::ballot ? a.ballot : kind == Vote::any ? a.ballot != 0 : a.ballot == a.mask;
}

struct MatchArguments {
    uint64_t value;
    uint32_t same;
};
static void do_match(Warp& w, uint32_t mask) {
    EMU_EACH_LANE(l, w, mask) {
        auto& a = *static_cast<MatchArguments*>(l.arguments);
        a.same = 0;
        for (uint32_t m = mask; m; m &= m - 1) {
            const uint32_t i = uint32_t(__builtin_ctz(m));
            if (static_cast<MatchArguments*>(w.lanes[i]->arguments)->value == a.value) a.same |= 1u << i;
        }
    }
}
uint32_t match_any(uint64_t value, uint32_t mask, Location at) {
    MatchArguments a{value, 0};
    warp_collective(do_match, "a match", &a, mask, at);
    return a.same;
}

// ---- reductions

struct ReduceArguments {
    int64_t value;
    Reduction kind;
};
static int64_t combine(Reduction kind, int64_t a, int64_t b) {
    switch (kind) {
        case Reduction::add: return a + b;
        case Reduction::minimum: return std::min(a, b);
        case Reduction::maximum: return std::max(a, b);
        case Reduction::bit_and: return a & b;
        case Reduction::bit_or: return a | b;
        case Reduction::bit_xor: return a ^ b;
    }
    __builtin_unreachable();
}
static void do_reduce(Warp& w, uint32_t mask) {
    const auto& first = *static_cast<ReduceArguments*>(w.lanes[__builtin_ctz(mask)]->arguments);
    int64_t total = first.value;
    EMU_EACH_LANE(l, w, mask & (mask - 1))
    total = combine(first.kind, total, static_cast<ReduceArguments*>(l.arguments)->value);
    EMU_EACH_LANE(l, w, mask) static_cast<ReduceArguments*>(l.arguments)->value = total;
}
int64_t reduce(int64_t value, Reduction kind, uint32_t mask, Location at) {
    ReduceArguments a{value, kind};
    warp_collective(do_reduce, "a warp reduction", &a, mask, at);
    return a.value;
}

// ---- the warp's barrier; shuffles and votes do not order memory accesses, this does

static void do_warp_barrier(Warp& w, uint32_t mask) {
    if (!block->checked) return;
    Lane* lanes[32];
    uint32_t count = 0;
    EMU_EACH_LANE(l, w, mask) lanes[count++] = &l;
    block->clocks.meet(lanes, count);
}
void warp_barrier(uint32_t mask, Location at) { warp_collective(do_warp_barrier, "__syncwarp", nullptr, mask, at); }

}  // namespace emu
