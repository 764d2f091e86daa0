// The checker of global memory: bounds, initialisation, and races within a launch.
#pragma once
#include "machine.h"

namespace emu {

// `code` is the accessing instruction where there is no source location.
void check_global(Lane& lane, const void* p, uint32_t size, Access kind, const Location* at, void* code);

}  // namespace emu
