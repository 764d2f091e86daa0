// Which lane runs next. A lane runs until it must wait. Without a seed the lanes of a warp follow each other, then the next
// warp's; with a seed warps and lanes are drawn at random, lanes are preempted after collectives, and loads land in any
// order.
#include "scheduler.h"

#include <algorithm>
#include <map>

#include "fault.h"
#include "launch.h"

namespace emu {

static std::string describe_wait(const Block& b, const Lane& l) {
    const char* file = l.wait == Wait::exited ? "" : short_name(l.at.file());
    const int line = l.wait == Wait::exited ? 0 : l.at.line();
    switch (l.wait) {
        case Wait::exited: return "have left the kernel";
        case Wait::warp: return formatted("%s:%d: %s with mask %08x", file, line, l.operation_name, l.mask);
        case Wait::barrier: {
            const NamedBarrier& barrier = b.barriers[l.barrier];
            const uint32_t needed = barrier.needed ? barrier.needed : b.live;
            if (l.barrier >= int(NAMED_BARRIERS))
                return formatted("%s:%d: wgmma.wait_group of a warpgroup (%u of %u threads)", file, line, barrier.arrived,
                                 needed);
            return formatted("%s:%d: barrier %d (%u of %u threads have arrived)", file, line, l.barrier, barrier.arrived,
                             needed);
        }
        case Wait::mbarrier: {
            const MbarrierWord w = MbarrierWord::unpack(*l.mbarrier);
            return formatted("%s:%d: mbarrier in %s, for the phase of parity %u (%d arrivals and %d bytes missing)", file,
                             line, b.describe_shared(b.offset_of(l.mbarrier)).c_str(), l.parity, w.pending, w.bytes);
        }
        case Wait::nothing: break;
    }
    return "run";
}

[[noreturn]] static void deadlock(Block& b) {
    std::map<std::string, std::vector<uint32_t>> groups;
    for (uint32_t i = 0; i < b.threads; i++) groups[describe_wait(b, b.lanes[i])].push_back(i);
    std::string text = "DEADLOCK: no thread can go on. They wait at";
    for (auto& [what, lanes] : groups)
        text += formatted("\n    %s: %zu thread%s [%u..%u]", what.c_str(), lanes.size(), lanes.size() > 1 ? "s" : "",
                          lanes.front(), lanes.back());
    fail_block(text);
}

static uint32_t pick_lane(uint32_t ready, uint32_t from) {
    const uint32_t above = from < 32 ? ready & (~0u << from) : 0;
    return uint32_t(__builtin_ctz(above ? above : ready));
}

static Lane* pick_at_random(Block& b, const Lane& me) {
    const uint64_t r = random_bits(b);
    if (!b.loads.empty() && (r & 15) == 0) complete_one_load(b);
    const uint32_t count = uint32_t(b.warps.size());
    const uint32_t first = (r >> 8 & 7) ? me.warp->index : uint32_t(r >> 16) % count;  // most often the same warp goes on
    for (uint32_t i = 0; i < count; i++) {
        Warp& w = *b.warps[(first + i) % count];
        if (w.ready) return w.lanes[pick_lane(w.ready, uint32_t(r >> 32) & 31)];
    }
    return nullptr;
}

static inline Lane* pick_in_order(Block& b, const Lane& me) {
    Warp& mine = *me.warp;
    if (mine.ready) return mine.lanes[pick_lane(mine.ready, me.lane + 1u)];
    const uint32_t count = uint32_t(b.warps.size());
    uint32_t index = mine.index;
    for (uint32_t i = 1; i < count; i++) {
        if (++index == count) index = 0;
        Warp& w = *b.warps[index];
        if (w.ready) return w.lanes[__builtin_ctz(w.ready)];
    }
    return nullptr;
}

static void count_step(Block& b) {
    b.switches++;
    const uint64_t limit = b.launch->options.steps;
    if (limit && ++b.steps > limit)
        fail_block(
            formatted("BUDGET: the block has taken more than %llu steps (an endless loop?)", (unsigned long long)limit));
}

void yield() {
    Block& b = *block;
    Lane* me = current();
    Lane* next;
    while (!(next = b.random ? pick_at_random(b, *me) : pick_in_order(b, *me)))
        if (!complete_one_load(b)) deadlock(b);
    count_step(b);
    if (next == me) return;
    current_face = next;
    emu_switch_fiber(&me->stack_pointer, next->stack_pointer);
}

void yield_exited() {
    Block& b = *block;
    if (b.live) return yield();
    Lane* me = current();
    current_face = nullptr;
    emu_switch_fiber(&me->stack_pointer, b.scheduler);
}

}  // namespace emu
