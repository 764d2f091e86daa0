// Happens-before between blocks: what atomics on global memory publish and acquire.
#include "global_order.h"

#include <algorithm>

#include "machine.h"

namespace emu {

void GlobalOrder::begin_block() {
    acquired_.clear();
    pending_.clear();
    fences_ = false;
    last_ = nullptr;
}

void GlobalOrder::fence(Block&, Lane& lane) {
    lane.fence_view = lane.view;
    lane.fence_clock = lane.clock++;
    fences_ = true;
    for (size_t i = 0; i < pending_.size();) {
        if (pending_[i].thread != lane.index) {
            i++;
            continue;
        }
        Acquired event = pending_[i];
        event.clock = lane.clock;
        acquired_.push_back(event);
        pending_.erase(pending_.begin() + i);
    }
}

bool GlobalOrder::knows(const Lane& lane, const Acquired& event) const {
    return event.thread == lane.index || lane.view[event.thread] >= event.clock;
}

void GlobalOrder::publish(Block& b, Lane& lane, History& history, bool acquire_release) {
    if (!acquire_release && !fences_) return;
    Release release{b.linear_index, std::vector<uint32_t>(b.threads)};
    bool any = false;
    for (uint32_t t = 0; t < b.threads; t++) {
        const Lane& other = b.lanes[t];
        const uint32_t known = t == lane.index ? lane.clock : lane.view[t];
        uint32_t clock = known;
        if (!acquire_release) {
            // What the atomic's own thread knew at its fence; and what each thread fenced itself, if this thread knows of
            // it.
            clock = !lane.fence_view ? 0 : t == lane.index ? lane.fence_clock : lane.fence_view[t];
            clock = std::max(clock, std::min(known, other.fence_clock));
        }
        release.clocks[t] = clock;
        any |= clock > 0;
    }
    if (!any) return;
    history.releases.push_back(uint32_t(releases_.size()));
    releases_.push_back(std::move(release));
    last_ = nullptr;  // it may have moved
    // What this thread has acquired from others travels along.
    for (const Acquired& event : acquired_)
        if (event.history != &history && knows(lane, event))
            history.releases.insert(history.releases.end(), event.history->releases.begin(),
                                    event.history->releases.begin() + event.count);
    lane.clock++;
}

void GlobalOrder::atomic(Block& b, Lane& lane, const void* address, bool acquire_release) {
    History& history = histories_[address];
    if (!history.releases.empty()) {
        const Acquired event{lane.index, lane.clock, &history, history.releases.size()};
        (acquire_release ? acquired_ : pending_).push_back(event);
    }
    publish(b, lane, history, acquire_release);
}

bool GlobalOrder::ordered(const Lane& lane, uint32_t block, uint32_t thread, uint32_t clock) {
    if (last_ && last_->block == block && last_->clocks[thread] >= clock && knows(lane, acquired_[last_event_])) return true;
    for (size_t e = 0; e < acquired_.size(); e++) {
        if (!knows(lane, acquired_[e])) continue;
        for (size_t i = 0; i < acquired_[e].count; i++) {
            const Release& release = releases_[acquired_[e].history->releases[i]];
            if (release.block != block || release.clocks[thread] < clock) continue;
            last_ = &release;
            last_event_ = e;
            return true;
        }
    }
    return false;
}

}  // namespace emu
