// mbarriers: arrivals and announced bytes end a phase; waiting is for the end of a phase of one parity. The barrier's state
// is a real word in shared memory, so that copying or overwriting it shows.
#include "mbarrier.h"

#include "fault.h"
#include "scheduler.h"

namespace emu {

static Mbarrier* find(Block& b, const uint64_t* word) {
    for (Mbarrier& m : b.mbarriers)
        if (m.word == word) return &m;
    return nullptr;
}

Mbarrier& require_mbarrier(uint64_t* word, Location at) {
    Block& b = *block;
    require_shared(word, 8, "mbarrier", at);
    Mbarrier* m = find(b, word);
    if (!m) fail(at, "mbarrier used before mbarrier_init: %s", b.describe_shared(b.offset_of(word)).c_str());
    const Lane& l = *current();
    if (b.checked && l.index != m->initialiser && l.view[m->initialiser] < m->initialised)
        fail(at, "RACE: this use of the mbarrier in %s is not ordered after its mbarrier_init by thread %u",
             b.describe_shared(b.offset_of(word)).c_str(), m->initialiser);
    return *m;
}

// Ends the phase if nothing is missing.
static void end_phase_if_complete(Block& b, Mbarrier& m) {
    MbarrierWord w = MbarrierWord::unpack(*m.word);
    if (w.pending || w.bytes) return;
    *m.word = MbarrierWord{!w.phase, w.expected, w.expected, 0}.pack();
    m.phase++;
    if (b.checked) {
        b.clocks.advance(m.gathering, b.clocks.loads_of(uint32_t(&m - b.mbarriers.data())), m.phase);
        m.released = b.clocks.take(m.gathering);
    }
    for (uint32_t i = 0; i < b.threads; i++) {
        Lane& l = b.lanes[i];
        if (l.wait == Wait::mbarrier && l.mbarrier == m.word && int(l.parity) == w.phase) set_ready(l);
    }
}

void mbarrier_init(uint64_t* word, uint32_t arrivals, Location at) {
    Block& b = *block;
    Lane& l = *current();
    require_shared(word, 8, "mbarrier_init", at);
    if (b.offset_of(word) % 8)
        fail(at, "MISALIGNED mbarrier: %s is not aligned to 8 bytes", b.describe_shared(b.offset_of(word)).c_str());
    if (!arrivals || arrivals >= 1u << 20) fail(at, "mbarrier_init: %u arrivals", arrivals);
    Mbarrier* m = find(b, word);
    if (!m) {
        if (b.mbarriers.size() == MAX_MBARRIERS) fail(at, "mbarrier_init: more than %u mbarriers", MAX_MBARRIERS);
        b.mbarriers.push_back({word, 0, 0, 0, false, {}, {}});
        m = &b.mbarriers.back();
    }
    m->initialiser = l.index;
    m->initialised = l.clock;
    m->fenced = false;
    if (b.checked) check_shared(l, word, 8, Access::write, &at, nullptr);
    *word = MbarrierWord{0, int(arrivals), int(arrivals), 0}.pack();
}

// The initialising thread's fence, either kind, makes its barriers visible to the asynchronous proxy.
static void show_own_mbarriers() {
    for (Mbarrier& m : block->mbarriers)
        if (m.initialiser == current()->index) m.fenced = true;
}
void fence_mbarrier_init(Location) { show_own_mbarriers(); }
void fence_proxy_async(Location) {
    show_own_mbarriers();
    Lane& l = *current();
    if (block->checked) l.proxy_fence = l.clock++;
}

static void change(uint64_t* word, int arrivals, uint32_t bytes, Location at) {
    Block& b = *block;
    Mbarrier& m = require_mbarrier(word, at);
    MbarrierWord w = MbarrierWord::unpack(*word);
    w.bytes += int(bytes);
    if (w.pending < arrivals)
        fail(at, "mbarrier in %s: more arrivals than the %d of a phase (does somebody arrive twice?)",
             b.describe_shared(b.offset_of(word)).c_str(), w.expected);
    w.pending -= arrivals;
    *word = w.pack();
    if (b.checked && arrivals) b.clocks.release(m.gathering, *current());
    end_phase_if_complete(b, m);
}
void mbarrier_arrive(uint64_t* word, Location at) { change(word, 1, 0, at); }
void mbarrier_expect_tx(uint64_t* word, uint32_t bytes, Location at) { change(word, 0, bytes, at); }
void mbarrier_arrive_expect_tx(uint64_t* word, uint32_t bytes, Location at) { change(word, 1, bytes, at); }

void mbarrier_wait(uint64_t* word, uint32_t parity, Location at) {
    Mbarrier* m = &require_mbarrier(word, at);
    Lane& l = *current();
    if (parity > 1) fail(at, "mbarrier_wait: the parity is %u, which is neither 0 nor 1", parity);
    while (MbarrierWord::unpack(*word).phase == int(parity)) {
        l.mbarrier = word;
        l.parity = parity;
        l.at = at;
        l.operation_name = "mbarrier_wait";
        set_waiting(l, Wait::mbarrier);
        yield();
        m = find(*block, word);  // more may have been initialised meanwhile
    }
    if (block->checked) block->clocks.acquire(l, m->released);
}

void mbarrier_bytes_landed(uint64_t* word, uint32_t bytes) {
    Block& b = *block;
    MbarrierWord w = MbarrierWord::unpack(*word);
    w.bytes -= int(bytes);
    *word = w.pack();
    if (Mbarrier* m = find(b, word)) end_phase_if_complete(b, *m);
}

}  // namespace emu
