// Errors of kernels. A failing lane never unwinds: its message is kept, and the block's scheduler goes on in its place.
#pragma once
#include <string>

#include "machine.h"

namespace emu {

// Ends the launch with this message, at a place in the source.
[[noreturn]] void fail(Location at, const char* format, ...) __attribute__((format(printf, 2, 3)));
// The same where the place is known only as the address of an instruction (if `at` is null), to be looked up later.
[[noreturn]] void fail_at(const Location* at, void* code, const std::string& message);
// The same with a message that concerns the whole block.
[[noreturn]] void fail_block(const std::string& message);

// Source file and line of an instruction, with the inlined callers.
std::string symbolize(void* code);
// The file's name as messages show it.
const char* short_name(const char* file);
std::string formatted(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Turns memory faults in kernels, and expired time limits, into failed launches; once per operating-system thread.
void install_fault_handlers();
// Limits the processor time of what this thread runs until the next call; 0 switches the limit off.
void limit_processor_time(double seconds);

}  // namespace emu
