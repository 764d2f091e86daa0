// Linked before all kernels: see emu_kernels_begin in fault.cpp.
extern "C" __attribute__((noinline)) void emu_kernels_begin() { asm volatile(""); }
