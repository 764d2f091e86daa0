// Which lane runs next.
#pragma once
#include "machine.h"

namespace emu {

// Gives the processor to another lane; returns when this one is chosen again. A lane that is not ready first marks itself
// so.
void yield();
// The same for a lane that has left its kernel.
void yield_exited();

inline uint64_t random_bits(Block& b) {
    uint64_t x = b.random;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return b.random = x;
}
inline void set_ready(Lane& l) {
    l.wait = Wait::nothing;
    l.warp->ready |= 1u << l.lane;
}
inline void set_waiting(Lane& l, Wait why) {
    l.wait = why;
    l.warp->ready &= ~(1u << l.lane);
}

}  // namespace emu
