// Barriers of a block: __syncthreads, named barriers, and the meeting of a warpgroup in wgmma.wait_group.
#include "costs.h"
#include "fault.h"
#include "scheduler.h"

namespace emu {

static const char* barrier_name(int id) {
    return id == 0 ? "__syncthreads" : id < int(NAMED_BARRIERS) ? "a named barrier" : "wgmma.wait_group";
}

// Ends the barrier's phase if all have arrived.
static void release_if_complete(Block& b, int id, Location at) {
    NamedBarrier& barrier = b.barriers[id];
    const uint32_t needed = barrier.needed ? barrier.needed : b.live;
    if (!barrier.arrived || barrier.arrived < needed) return;
    if (barrier.arrived > needed)
        fail(at, "barrier %d: %u threads arrive where %u are expected", id, barrier.arrived, needed);
    barrier.arrived = barrier.needed = 0;
    if (b.checked) barrier.released = b.clocks.take(barrier.gathering);
    if (id >= int(NAMED_BARRIERS)) complete_warpgroup(b, uint32_t(id) - NAMED_BARRIERS);
    for (uint32_t i = 0; i < b.threads; i++) {
        Lane& l = b.lanes[i];
        if (l.wait != Wait::barrier || l.barrier != id) continue;
        if (b.checked && id < int(NAMED_BARRIERS))
            l.view = barrier.released;  // it holds all that the lane knew when it arrived
        if (b.costs) b.costs->meet(*l.warp);
        set_ready(l);
    }
}

static void arrive(int id, int threads, Location at, bool waits) {
    Block& b = *block;
    Lane* me = current();
    if (id < 0 || id >= int(NAMED_BARRIERS + MAX_WARPGROUPS)) fail(at, "barrier %d does not exist: 0 to 15 do", id);
    NamedBarrier& barrier = b.barriers[id];
    if (threads % 32 || threads < 0 || uint32_t(threads) > (b.threads + 31) / 32 * 32)
        fail(at, "barrier %d: %d threads, which is not whole warps of the block's %u threads", id, threads, b.threads);
    if (!threads && b.live != b.threads)
        fail(at, "__syncthreads after %u thread(s) of the block have left the kernel", b.threads - b.live);
    if (barrier.arrived && barrier.needed != uint32_t(threads))
        fail(at, "barrier %d: %d threads expected here, %u by those that have arrived", id, threads, barrier.needed);
    if (barrier.arrived) {
        for (uint32_t i = 0; i < me->warp->count; i++) {  // all lanes of a warp must come by the same call
            const Lane& o = *me->warp->lanes[i];
            if (o.wait != Wait::barrier || o.barrier != id) continue;
            if (memcmp(&o.at, &at, sizeof at) && !o.at.same(at))
                fail(at, "DIVERGENT BARRIER: lane %u is in %s here, lane %u of the same warp waits in it at %s:%d", me->lane,
                     barrier_name(id), o.lane, short_name(o.at.file()), o.at.line());
            break;
        }
    }
    barrier.needed = uint32_t(threads);
    barrier.arrived++;
    me->barrier = id;
    me->at = at;
    me->operation_name = barrier_name(id);
    if (b.checked && id < int(NAMED_BARRIERS)) b.clocks.release(barrier.gathering, *me);
    if (waits) set_waiting(*me, Wait::barrier);
    release_if_complete(b, id, at);
    if (me->wait == Wait::barrier) yield();
}
void barrier_sync(int id, int threads, Location at) { arrive(id, threads, at, true); }
void barrier_arrive(int id, int threads, Location at) { arrive(id, threads, at, false); }

int barrier_reduce(int predicate, BarrierReduction kind, Location at) {
    Block& b = *block;
    b.reduction_count += predicate != 0;
    barrier_sync(0, 0, at);
    const uint32_t count = b.reduction_count;
    if (++b.reduction_readers == b.threads) b.reduction_count = b.reduction_readers = 0;
    barrier_sync(0, 0, at);
    switch (kind) {
        case BarrierReduction::any: return count > 0;
        case BarrierReduction::all: return count == b.threads;
        case BarrierReduction::count: return int(count);
    }
    __builtin_unreachable();
}

void barrier_thread_exited(Block& b) {
    const NamedBarrier& barrier = b.barriers[0];
    if (!barrier.arrived || barrier.needed) return;
    for (uint32_t i = 0; i < b.threads; i++) {
        const Lane& l = b.lanes[i];
        if (l.wait == Wait::barrier && l.barrier == 0)
            fail(l.at, "DIVERGENT BARRIER: thread %u waits in __syncthreads here, while thread %u has left the kernel",
                 l.index, current()->index);
    }
}

}  // namespace emu
