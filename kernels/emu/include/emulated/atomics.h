// Atomics on integers. Float atomics are absent: their order, and with it the result's bits, would vary.
#pragma once

namespace emu {
template <class T>
concept AtomicInteger = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long> ||
                        std::is_same_v<T, unsigned long> || std::is_same_v<T, unsigned short>;

// Blocks of one launch run one after another on one thread, so plain accesses are atomic; the checker must not see them.
template <class T, class F>
__attribute__((no_sanitize("thread"), noinline, optimize("O2"))) static T atomic_update(T* p, F next, Location at) {
    atomic_access(p, sizeof(T), Order::relaxed, at);
    const T old = *p;
    *p = next(old);
    return old;
}
}  // namespace emu

#define EMU_QUIET __attribute__((no_sanitize("thread")))
#define EMU_ATOMIC(name, expression)                                                        \
    template <::emu::AtomicInteger T>                                                       \
    [[maybe_unused]] static inline T name(T* p, std::type_identity_t<T> v, EMU_AT) {        \
        return ::emu::atomic_update(p, [v](T old) EMU_QUIET { return T(expression); }, at); \
    }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicSub, old - v)
EMU_ATOMIC(atomicMax, old < v ? v : old)
EMU_ATOMIC(atomicMin, v < old ? v : old)
EMU_ATOMIC(atomicExch, v)
EMU_ATOMIC(atomicAnd, old& v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicXor, old ^ v)
EMU_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
#undef EMU_ATOMIC
template <::emu::AtomicInteger T>
[[maybe_unused]] static inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v, EMU_AT) {
    return ::emu::atomic_update(p, [=](T old) EMU_QUIET { return old == expected ? v : old; }, at);
}
