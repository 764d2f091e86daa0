// mbarriers, as TMA uses them.
#pragma once
#include "machine.h"

namespace emu {

// The mbarrier at this word; an error where it was not initialised, or not visibly to the calling lane.
Mbarrier& require_mbarrier(uint64_t* word, Location at);
// A TMA load of so many bytes that signals this barrier is complete.
void mbarrier_bytes_landed(uint64_t* word, uint32_t bytes);

}  // namespace emu
