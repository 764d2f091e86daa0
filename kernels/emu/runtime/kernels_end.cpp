// Linked after all kernels: see emu_kernels_end in fault.cpp.
extern "C" __attribute__((noinline)) void emu_kernels_end() { asm volatile(""); }
