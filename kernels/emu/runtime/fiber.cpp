// Fibers: mapping stacks and switching between them. The switch saves what the ABI's callees must keep, and leaves through
// an indirect jump: a `ret` would mispredict every time, since the return address belongs to another stack.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace emu {

#if defined(__x86_64__)
asm(R"(.text
.globl emu_switch_fiber
.type emu_switch_fiber,@function
emu_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size emu_switch_fiber,.-emu_switch_fiber
)");

void* prime_fiber(const Stack& stack, size_t offset, void (*entry)()) {
    const uintptr_t top = (uintptr_t(stack.high) - offset) & ~uintptr_t(63);
    void** words = reinterpret_cast<void**>(top - 8);
    *words = nullptr;  // the return address of `entry`, which aligns its stack as a call would
    *--words = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--words = nullptr;
    return words;
}
#elif defined(__aarch64__)
asm(R"(.text
.globl emu_switch_fiber
.type emu_switch_fiber,%function
emu_switch_fiber:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  br x30
.size emu_switch_fiber,.-emu_switch_fiber
)");

void* prime_fiber(const Stack& stack, size_t offset, void (*entry)()) {
    const uintptr_t base = ((uintptr_t(stack.high) - offset) & ~uintptr_t(63)) - 160;
    memset(reinterpret_cast<void*>(base), 0, 160);
    reinterpret_cast<void**>(base)[11] = reinterpret_cast<void*>(entry);
    return reinterpret_cast<void*>(base);
}
#else
#error "the emulated GPU has a fiber switch for x86-64 and aarch64 only"
#endif

void map_stacks(Stack* stacks, size_t count) {
    const size_t each = STACK_BYTES + GUARD_BYTES;
    void* memory =
        mmap(nullptr, each * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) abort();
    for (size_t i = 0; i < count; i++) {
        char* p = static_cast<char*>(memory) + i * each;
        mprotect(p, GUARD_BYTES, PROT_NONE);
        stacks[i] = {p + GUARD_BYTES, p + each};
    }
}

}  // namespace emu
