// Collective operations of a warp: the last lane that arrives does the work for all, through pointers into the others'
// stacks.
#pragma once
#include "machine.h"

namespace emu {

// The calling lane arrives at `operation` with `arguments`; returns when the operation has been done for the lanes of
// `mask`.
void warp_collective(WarpOperation operation, const char* name, void* arguments, uint32_t mask, Location at);

}  // namespace emu
