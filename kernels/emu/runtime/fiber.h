// Fibers: stacks that one operating-system thread runs in turn, each the thread of execution of one CUDA thread.
#pragma once
#include <cstddef>

namespace emu {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t GUARD_BYTES = 4096;

struct Stack {
    char* low = nullptr;   // lowest usable byte; a guard page lies below
    char* high = nullptr;  // one past the highest
};

// Maps `count` stacks with a guard page below each. They are never unmapped: executors are reused.
void map_stacks(Stack* stacks, size_t count);
// Prepares a fiber that will begin at `entry`, `offset` bytes below the top of its stack; returns its stack pointer. `entry`
// must never return.
void* prime_fiber(const Stack& stack, size_t offset, void (*entry)());

extern "C" {
// Saves the caller's registers and stack pointer to *save, and goes on where `load` was saved.
void emu_switch_fiber(void** save, void* load);
}

}  // namespace emu
