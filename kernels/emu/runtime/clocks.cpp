// Happens-before, by vector clocks: views, barriers, releases and acquires.
#include "clocks.h"

#include <algorithm>
#include <cstring>

#include "fault.h"
#include "machine.h"

namespace emu {

// The pool that views of this thread's block return to.
static Clocks& pool() { return block->clocks; }

void ViewRef::drop() {
    if (view_ && --view_->references == 0) pool().free_.push_back(view_);
    view_ = nullptr;
}
ViewRef& ViewRef::operator=(const ViewRef& other) {
    if (other.view_) other.view_->references++;
    drop();
    view_ = other.view_;
    return *this;
}

uint32_t Clocks::wgmma_of(uint32_t warp) const { return 3 * threads + MAX_MBARRIERS + warp; }

std::string Clocks::describe(uint32_t agent) const {
    if (agent < threads) return formatted("thread %u", agent);
    if (agent < 2 * threads) return formatted("a cp.async of thread %u", agent - threads);
    if (agent < 3 * threads) return formatted("a TMA store of thread %u", agent - 2 * threads);
    if (agent < wgmma_of(0)) return formatted("a TMA load that signals mbarrier #%u", agent - loads_of(0));
    return formatted("wgmma of warp %u", agent - wgmma_of(0));
}

ViewRef Clocks::fresh() {
    if (free_.empty()) {
        storage_.push_back(std::make_unique<View>());
        storage_.back()->clock = std::make_unique<uint32_t[]>(agents);
        free_.push_back(storage_.back().get());
    }
    View* view = free_.back();
    free_.pop_back();
    view->references = 0;
    return ViewRef(view);
}

void Clocks::reset(Block& b) {
    joined_a_.forget(), joined_b_.forget(), joined_.forget();
    const uint32_t count = 3 * b.threads + MAX_MBARRIERS + MAX_THREADS / 32;
    if (agents != count) {
        storage_.clear();
        agents = count;
    }
    threads = b.threads;
    free_.clear();
    for (auto& view : storage_) free_.push_back(view.get());
    ViewRef nothing = fresh();
    memset(nothing.view_->clock.get(), 0, agents * sizeof(uint32_t));
    for (uint32_t i = 0; i < b.threads; i++) {
        Lane& l = b.lanes[i];
        l.view.forget(), l.fence_view.forget();
        l.view = nothing;
        l.clock = 1;
        l.proxy_fence = l.fence_clock = 0;
    }
    for (NamedBarrier& barrier : b.barriers) barrier.gathering.forget(), barrier.released.forget();
    for (Mbarrier& m : b.mbarriers) m.gathering.forget(), m.released.forget();
}

void Clocks::join(View& into, const View& from) const {
    uint32_t* a = into.clock.get();
    const uint32_t* b = from.clock.get();
    for (uint32_t i = 0; i < agents; i++) a[i] = std::max(a[i], b[i]);
}

// What a lane knows of itself and of the asynchronous operations that it has waited for.
void Clocks::own_clocks(View& into, const Lane& lane) const {
    uint32_t* c = into.clock.get();
    auto raise = [c](uint32_t agent, uint32_t clock) { c[agent] = std::max(c[agent], clock); };
    raise(lane.index, lane.clock);
    raise(copies_of(lane.index), lane.copies.completed);
    raise(stores_of(lane.index), lane.stores_read);
    raise(wgmma_of(lane.warp->index), lane.warp->wgmma.completed);
}

uint32_t seen_agent(const Lane& lane, uint32_t agent) {
    const Clocks& c = block->clocks;
    if (agent == lane.index) return lane.clock;
    const uint32_t known = lane.view[agent];
    if (agent < c.threads) return known;
    if (agent == c.copies_of(lane.index)) return std::max(known, lane.copies.completed);
    if (agent == c.stores_of(lane.index)) return std::max(known, lane.stores_read);
    if (agent == c.wgmma_of(lane.warp->index)) return std::max(known, lane.warp->wgmma.completed);
    return known;
}

ViewRef Clocks::snapshot(const Lane& lane) {
    ViewRef copy = fresh();
    memcpy(copy.view_->clock.get(), lane.view.data(), agents * sizeof(uint32_t));
    own_clocks(*copy.view_, lane);
    return copy;
}

void Clocks::meet(Lane** lanes, uint32_t count) {
    ViewRef all = snapshot(*lanes[0]);
    const View* joined = lanes[0]->view.view_;
    for (uint32_t i = 1; i < count; i++) {
        if (lanes[i]->view.view_ != joined) join(*all.view_, *lanes[i]->view.view_);
        joined = lanes[i]->view.view_;
        own_clocks(*all.view_, *lanes[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
        lanes[i]->view = all;
        lanes[i]->clock++;
    }
}

void Clocks::release(Gathering& into, Lane& lane) {
    if (!into.view) {
        into.view = snapshot(lane);
    } else {
        if (!(into.last == lane.view)) join(*into.view.view_, *lane.view.view_);
        own_clocks(*into.view.view_, lane);
    }
    into.last = lane.view;
    lane.clock++;
}

ViewRef Clocks::take(Gathering& gathering) {
    ViewRef taken = gathering.view;
    gathering.view = ViewRef();
    gathering.last = ViewRef();
    return taken;
}

void Clocks::advance(Gathering& gathering, uint32_t agent, uint32_t clock) {
    if (!gathering.view) {
        gathering.view = fresh();
        memset(gathering.view.view_->clock.get(), 0, agents * sizeof(uint32_t));
    }
    uint32_t& c = gathering.view.view_->clock[agent];
    c = std::max(c, clock);
}

void Clocks::acquire(Lane& lane, const ViewRef& from) {
    if (!from || from == lane.view) return;
    if (!(joined_ && joined_a_ == lane.view && joined_b_ == from)) {
        ViewRef result = fresh();
        memcpy(result.view_->clock.get(), lane.view.data(), agents * sizeof(uint32_t));
        join(*result.view_, *from.view_);
        joined_a_ = lane.view;
        joined_b_ = from;
        joined_ = result;
    }
    lane.view = joined_;
}

}  // namespace emu
