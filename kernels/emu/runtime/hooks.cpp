// What compilers' instrumentation calls. The checked flavour of the kernels is compiled with -fsanitize=thread, =alignment,
// =bounds and -fsanitize-coverage=trace-pc, but not linked with those sanitizers' libraries: these functions take their
// place.
#include "costs.h"
#include "fault.h"
#include "global_shadow.h"
#include "heap.h"
#include "launch.h"

namespace emu {

static inline void access(void* p, uint32_t size, Access kind, void* code) {
    Lane* l = current();
    if (!l) return;
    Block& b = *block;
    const bool writes = kind == Access::write;
    if (b.in_shared(p)) {
        check_shared(*l, p, size, kind, nullptr, code);
        if (b.costs) [[unlikely]]
            b.costs->access(*l, writes ? CostKind::shared_store : CostKind::shared_load, b.offset_of(p), size, code);
    } else if (heap_contains(p)) {
        check_global(*l, p, size, kind, nullptr, code);
        if (b.costs) [[unlikely]]
            b.costs->access(*l, writes ? CostKind::global_store : CostKind::global_load, uintptr_t(p), size, code);
    }
    // Everything else is the lane's stack or a constant, which the compiler's own checks and the guard pages cover.
}

void copy_checked(void* to, const void* from, size_t n) {
    access(const_cast<void*>(from), uint32_t(n), Access::read, __builtin_return_address(0));
    access(to, uint32_t(n), Access::write, __builtin_return_address(0));
    memcpy(to, from, n);
}

void atomic_access(const void* p, size_t size, Order order, Location at) {
    Block& b = *block;
    Lane& l = *current();
    if (uintptr_t(p) % size) fail(at, "MISALIGNED atomic: %p is not aligned to %zu bytes", p, size);
    const bool shared = b.in_shared(p);
    if (!shared && !heap_contains(p)) fail(at, "OUT OF BOUNDS: atomic on %p, which is neither shared nor device memory", p);
    if (!b.checked) return;
    if (shared) return check_shared(l, p, uint32_t(size), Access::atomic, &at, nullptr);
    check_global(l, p, uint32_t(size), Access::atomic, &at, nullptr);
    b.launch->order.atomic(b, l, p, order == Order::acquire_release);
}
uint32_t atomic_add_acq_rel(uint32_t* counter, uint32_t n, Location at) {
    atomic_access(counter, sizeof *counter, Order::acquire_release, at);
    const uint32_t old = *counter;
    *counter = old + n;
    return old;
}
void thread_fence(Location) {
    if (block->checked) block->launch->order.fence(*block, *current());
}

void assertion_failed(const char* expression, const char* file, int line) {
    fail_at(nullptr, nullptr, formatted("%s:%d: assertion failed: %s", short_name(file), line, expression));
}

}  // namespace emu

using namespace emu;

extern "C" {

#define CODE __builtin_return_address(0)
#define EMU_ACCESSES(n)                                                            \
    void __tsan_read##n(void* p) { access(p, n, Access::read, CODE); }             \
    void __tsan_write##n(void* p) { access(p, n, Access::write, CODE); }           \
    void __tsan_unaligned_read##n(void* p) { access(p, n, Access::read, CODE); }   \
    void __tsan_unaligned_write##n(void* p) { access(p, n, Access::write, CODE); } \
    void __tsan_volatile_read##n(void* p) { access(p, n, Access::read, CODE); }    \
    void __tsan_volatile_write##n(void* p) { access(p, n, Access::write, CODE); }
EMU_ACCESSES(1)
EMU_ACCESSES(2)
EMU_ACCESSES(4)
EMU_ACCESSES(8)
EMU_ACCESSES(16)
void __tsan_read_range(void* p, size_t n) { access(p, uint32_t(n), Access::read, CODE); }
void __tsan_write_range(void* p, size_t n) { access(p, uint32_t(n), Access::write, CODE); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// A basic block begins: the instruction budget.
void __sanitizer_cov_trace_pc() {
    if (!current_face) return;
    Block& b = *block;
    const uint64_t limit = b.launch->options.steps;
    if (limit && ++b.steps > limit) [[unlikely]]
        fail_at(nullptr, CODE,
                formatted("BUDGET: the block has taken more than %llu steps (an endless loop?)", (unsigned long long)limit));
}

// Alignment and array bounds: the compiler tells the source position.
struct SanitizerPosition {
    const char* file;
    uint32_t line, column;
};
struct SanitizerType {
    uint16_t kind, info;
    char name[1];
};
struct TypeMismatch {
    SanitizerPosition at;
    SanitizerType* type;
    unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* m, uintptr_t p) {
    if (!current_face) abort();
    fail_at(nullptr, nullptr,
            formatted("%s:%u: MISALIGNED access: %#zx is not aligned to %u bytes, as %s needs", short_name(m->at.file),
                      m->at.line, size_t(p), 1u << m->log_alignment, m->type->name));
}
void __ubsan_handle_out_of_bounds_abort(SanitizerPosition* at, uintptr_t index) {
    if (!current_face) abort();
    fail_at(nullptr, nullptr,
            formatted("%s:%u: OUT OF BOUNDS: array index %zd", short_name(at->file), at->line, ssize_t(index)));
}

}  // extern "C"
