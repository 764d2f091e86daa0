// Happens-before between the blocks of a launch, through atomics on global memory.
//
// A block that releases (an acquire-release atomic, or __threadfence and then an atomic) publishes what its threads had
// written. A block whose atomic on the same address comes later acquires it (at once, or at its next __threadfence if the
// atomic was relaxed). This is how "the last block to arrive reduces" is legal, and how its broken variants are not.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace emu {

struct Lane;
struct Block;

class GlobalOrder {
  public:
    void begin_block();
    void fence(Block& b, Lane& lane);
    void atomic(Block& b, Lane& lane, const void* address, bool acquire_release);
    // Whether `lane` has acquired what thread `thread` of another block did up to `clock`.
    bool ordered(const Lane& lane, uint32_t block, uint32_t thread, uint32_t clock);

  private:
    struct Release {
        uint32_t block;
        std::vector<uint32_t> clocks;  // by thread
    };
    struct History {  // of one address: indices of releases
        std::vector<uint32_t> releases;
    };
    struct Acquired {  // by a thread of the running block, at its clock
        uint16_t thread;
        uint32_t clock;
        const History* history;
        size_t count;  // the releases that it saw
    };
    void publish(Block& b, Lane& lane, History& history, bool acquire_release);
    bool knows(const Lane& lane, const Acquired& event) const;

    std::vector<Release> releases_;
    std::unordered_map<const void*, History> histories_;
    std::vector<Acquired> acquired_, pending_;  // pending: by relaxed atomics, until the thread's next fence
    bool fences_ = false;                       // whether any thread of this block has fenced
    const Release* last_ = nullptr;             // the answer found last, with the event that made it known
    size_t last_event_ = 0;
};

}  // namespace emu
