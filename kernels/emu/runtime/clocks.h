// Happens-before, by vector clocks.
//
// Every agent that touches memory has a clock: the threads of a block, the asynchronous copies and stores of each thread,
// the TMA loads of each mbarrier, the wgmma reads of each warp. A `View` says up to which clock its owner knows each agent.
// An access is ordered after another if the accessor's view has reached the other's clock. Views never change once shared,
// and lanes that met in a barrier share one, so that a barrier costs little more than one pass over one view.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace emu {

struct Lane;
struct Block;

struct View {
    uint32_t references = 0;
    std::unique_ptr<uint32_t[]> clock;
};

class Clocks;

// A counted reference. Blocks that end early abandon their fibers, so nothing may rely on destructors: `Clocks::reset` takes
// all views back at the start of a block, and `forget` drops a reference without counting.
class ViewRef {
  public:
    ViewRef() = default;
    explicit ViewRef(View* view) : view_(view) {
        if (view_) view_->references++;
    }
    ViewRef(const ViewRef& other) : ViewRef(other.view_) {}
    ViewRef& operator=(const ViewRef& other);
    ~ViewRef() { drop(); }
    void forget() { view_ = nullptr; }
    uint32_t operator[](uint32_t agent) const { return view_->clock[agent]; }
    const uint32_t* data() const { return view_->clock.get(); }
    explicit operator bool() const { return view_; }
    bool operator==(const ViewRef& other) const { return view_ == other.view_; }

  private:
    friend class Clocks;
    void drop();
    View* view_ = nullptr;
};

// Views of lanes that arrive one by one, joined.
struct Gathering {
    ViewRef view;  // referenced by nobody else, so it may change
    ViewRef last;  // the view joined last: the next one is often the same
    void forget() { view.forget(), last.forget(); }
};

class Clocks {
  public:
    // Numbers of agents.
    uint32_t threads = 0, agents = 0;
    uint32_t copies_of(uint32_t thread) const { return threads + thread; }
    uint32_t stores_of(uint32_t thread) const { return 2 * threads + thread; }
    uint32_t loads_of(uint32_t mbarrier) const { return 3 * threads + mbarrier; }
    uint32_t wgmma_of(uint32_t warp) const;
    std::string describe(uint32_t agent) const;

    // Starts a block: every lane knows nothing but itself.
    void reset(Block& b);
    // All of these lanes meet: afterwards each knows what any of them knew.
    void meet(Lane** lanes, uint32_t count);
    // `lane` publishes what it knows to those who will acquire the gathering.
    void release(Gathering& into, Lane& lane);
    // Takes what was gathered, which begins anew.
    ViewRef take(Gathering& gathering);
    // `lane` learns what `from` knows.
    void acquire(Lane& lane, const ViewRef& from);
    // Makes the gathering know this agent up to this clock.
    void advance(Gathering& gathering, uint32_t agent, uint32_t clock);
    // A copy of the lane's knowledge, its own clock included.
    ViewRef snapshot(const Lane& lane);

  private:
    friend class ViewRef;
    ViewRef fresh();
    void join(View& into, const View& from) const;
    void own_clocks(View& into, const Lane& lane) const;

    std::vector<std::unique_ptr<View>> storage_;
    std::vector<View*> free_;
    ViewRef joined_a_, joined_b_, joined_;  // the last result of `acquire`
};

// Up to which clock `lane` knows `agent`.
uint32_t seen_agent(const Lane& lane, uint32_t agent);

}  // namespace emu
