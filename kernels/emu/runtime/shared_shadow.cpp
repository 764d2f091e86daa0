// The checker of shared memory: bounds, initialisation, races and missing proxy fences.
#include "shared_shadow.h"

#include "fault.h"

namespace emu {

void SharedShadow::reset() {
    if (cells_.empty()) cells_.resize(SHARED_WINDOW / 2);
    bytes_.clear();
    if (++epoch_ == 1 << 12) {
        std::fill(cells_.begin(), cells_.end(), SharedCell{});
        epoch_ = 1;
    }
}

SharedCell& SharedShadow::fresh(SharedCell& cell) {
    if (cell.epoch != epoch_) {
        cell = SharedCell{};
        cell.epoch = epoch_ & 0xfff;
    }
    return cell;
}

void SharedShadow::split(SharedCell& cell) {
    const uint32_t index = uint32_t(bytes_.size());
    bytes_.push_back(cell);
    bytes_.push_back(cell);
    cell.split = 1;
    cell.write_clock = index;
}

void SharedShadow::access(Block& b, const Accessor& who, uint32_t offset, uint32_t size, Access kind, const Location* at,
                          void* code) {
    if (!b.allocated(offset, size)) {
        const uint32_t wrong = b.allocated(offset, 1) ? offset + size - 1 : offset;
        fail_at(at, code,
                formatted("OUT OF BOUNDS: %s of %u bytes: %s", kind == Access::read ? "read" : "write", size,
                          b.describe_shared(wrong).c_str()));
    }
    const uint32_t end = offset + size;
    while (offset < end) {
        SharedCell& cell = fresh(cells_[offset / 2]);
        const bool whole = offset % 2 == 0 && end - offset >= 2;
        if (!whole && !cell.split) split(cell);
        if (!cell.split) {
            touch(b, who, cell, offset, kind, at, code);
            offset += 2;
            continue;
        }
        touch(b, who, bytes_[cell.write_clock + offset % 2], offset, kind, at, code);
        offset++;
    }
}

[[noreturn]] static void report_race(Block& b, const Accessor& who, uint32_t offset, Access kind, const char* other_kind,
                                     uint32_t other, const Location* at, void* code) {
    const char* mine = kind == Access::read ? "read" : kind == Access::write ? "write" : "atomic";
    const std::string by = who.agent == who.lane.index ? "" : " by " + b.clocks.describe(who.agent);
    fail_at(at, code,
            formatted("RACE: this %s%s of %s is not ordered after the %s by %s", mine, by.c_str(),
                      b.describe_shared(offset).c_str(), other_kind, b.clocks.describe(other).c_str()));
}

void SharedShadow::touch(Block& b, const Accessor& who, SharedCell& cell, uint32_t offset, Access kind, const Location* at,
                         void* code) {
    const bool own = who.agent == who.lane.index;
    const bool writes = kind != Access::read;
    if (!cell.initialised && kind != Access::write)
        fail_at(at, code,
                formatted("UNINITIALISED: read of %s, which nothing has written", b.describe_shared(offset).c_str()));
    if (cell.write_clock && !(own && cell.writer == who.agent) && !(kind == Access::atomic && cell.atomic) &&
        seen_agent(who.lane, cell.writer) < cell.write_clock)
        report_race(b, who, offset, kind, "write", cell.writer, at, code);
    if (who.proxy == Proxy::async && cell.by_generic_proxy && b.lanes[cell.writer].proxy_fence < cell.write_clock)
        fail_at(at, code,
                formatted("PROXY: %s %s %s, which thread %u wrote without a fence_proxy_async since",
                          b.clocks.describe(who.agent).c_str(), writes ? "writes" : "reads",
                          b.describe_shared(offset).c_str(), cell.writer));
    if (!writes) {
        int slot = -1;
        for (int k = 0; k < 4; k++) {
            if (cell.read_clocks[k] && cell.readers[k] == who.agent) {
                slot = k;
                break;
            }
            if (slot < 0 && (!cell.read_clocks[k] || seen_agent(who.lane, cell.readers[k]) >= cell.read_clocks[k])) slot = k;
        }
        for (int k = 0; slot < 0 && k < 4;
             k++)  // a reader of the same warp is the one most likely to be ordered with this one
            if (cell.readers[k] / 32 == who.agent / 32) slot = k;
        if (slot < 0) slot = int(victim_++ & 3);
        cell.readers[slot] = uint16_t(who.agent);
        cell.read_clocks[slot] = who.clock;
        return;
    }
    for (int k = 0; k < 4; k++)
        if (cell.read_clocks[k] && !(own && cell.readers[k] == who.agent) &&
            seen_agent(who.lane, cell.readers[k]) < cell.read_clocks[k])
            report_race(b, who, offset, kind, "read", cell.readers[k], at, code);
    cell.writer = uint16_t(who.agent);
    cell.write_clock = who.clock;
    cell.initialised = 1;
    cell.by_generic_proxy = own && who.proxy == Proxy::generic;
    cell.atomic = kind == Access::atomic;
    for (uint32_t& clock : cell.read_clocks) clock = 0;
}

void check_shared(Lane& lane, const void* p, uint32_t size, Access kind, const Location* at, void* code) {
    Block& b = *block;
    b.accesses++;
    b.shadow.access(b, {lane, lane.index, lane.clock, Proxy::generic}, b.offset_of(p), size, kind, at, code);
}
void check_shared_async(Lane& lane, const void* p, uint32_t size, Access kind, uint32_t agent, uint32_t clock, Proxy proxy,
                        Location at) {
    Block& b = *block;
    b.accesses++;
    b.shadow.access(b, {lane, agent, clock, proxy}, b.offset_of(p), size, kind, &at, nullptr);
}

}  // namespace emu
