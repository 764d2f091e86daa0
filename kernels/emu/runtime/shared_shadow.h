// What the checker remembers of shared memory: who wrote and who read each two bytes (or each byte, where bytes are accessed
// one by one), and whether they were initialised.
#pragma once
#include <cstdint>
#include <vector>

#include "emulated.h"

namespace emu {

struct Lane;
struct Block;

struct SharedCell {
    uint16_t writer;
    uint16_t readers[4];
    uint16_t epoch : 12, initialised : 1, by_generic_proxy : 1, atomic : 1, split : 1;
    uint32_t write_clock;  // 0: not written in this block. In a split cell: the index of its two bytes' cells
    uint32_t read_clocks[4];
};
static_assert(sizeof(SharedCell) == 32);

enum class Proxy { generic, async };
enum class Access { read, write, atomic };

// Who accesses: the lane itself, or an asynchronous operation that it started.
struct Accessor {
    Lane& lane;
    uint32_t agent, clock;
    Proxy proxy;
};

class SharedShadow {
  public:
    void reset();
    // Checks one access to shared memory at `offset` and remembers it. `code` is the accessing instruction where there is no
    // source location.
    void access(Block& b, const Accessor& who, uint32_t offset, uint32_t size, Access kind, const Location* at, void* code);

  private:
    SharedCell& fresh(SharedCell& cell);
    void touch(Block& b, const Accessor& who, SharedCell& cell, uint32_t offset, Access kind, const Location* at,
               void* code);
    void split(SharedCell& cell);

    std::vector<SharedCell> cells_;
    std::vector<SharedCell> bytes_;  // two for each split cell
    uint32_t epoch_ = 0, victim_ = 0;
};

// By the lane itself, through the generic proxy.
void check_shared(Lane& lane, const void* p, uint32_t size, Access kind, const Location* at, void* code);
// By an operation of this agent at this clock.
void check_shared_async(Lane& lane, const void* p, uint32_t size, Access kind, uint32_t agent, uint32_t clock, Proxy proxy,
                        Location at);

}  // namespace emu
