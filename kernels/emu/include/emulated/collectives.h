// Barriers, shuffles, votes and reductions, with the caller's place as a defaulted last argument.
#pragma once

#define EMU_AT ::emu::Location at = std::source_location::current()

EMU_INLINE void __syncthreads(EMU_AT) { ::emu::barrier_sync(0, 0, at); }
EMU_INLINE int __syncthreads_or(int p, EMU_AT) { return ::emu::barrier_reduce(p, ::emu::BarrierReduction::any, at); }
EMU_INLINE int __syncthreads_and(int p, EMU_AT) { return ::emu::barrier_reduce(p, ::emu::BarrierReduction::all, at); }
EMU_INLINE int __syncthreads_count(int p, EMU_AT) { return ::emu::barrier_reduce(p, ::emu::BarrierReduction::count, at); }
EMU_INLINE void __syncwarp(unsigned mask = ~0u, EMU_AT) { ::emu::warp_barrier(mask, at); }
EMU_INLINE void __threadfence(EMU_AT) { ::emu::thread_fence(at); }
EMU_INLINE void __threadfence_block() {}
EMU_INLINE void __nanosleep(unsigned) {}

namespace emu {
template <class T>
EMU_INLINE T shuffle_any(unsigned mask, T v, Shuffle kind, int operand, int width, Location at) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &v, sizeof(T));
    bits = shuffle(bits, kind, operand, width, mask, at);
    __builtin_memcpy(&v, &bits, sizeof(T));
    return v;
}
}  // namespace emu

template <class T>
EMU_INLINE T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMU_AT) {
    return ::emu::shuffle_any(mask, v, ::emu::Shuffle::index, lane, width, at);
}
template <class T>
EMU_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_AT) {
    return ::emu::shuffle_any(mask, v, ::emu::Shuffle::up, int(delta), width, at);
}
template <class T>
EMU_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_AT) {
    return ::emu::shuffle_any(mask, v, ::emu::Shuffle::down, int(delta), width, at);
}
template <class T>
EMU_INLINE T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32, EMU_AT) {
    return ::emu::shuffle_any(mask, v, ::emu::Shuffle::exclusive_or, lanes, width, at);
}
EMU_INLINE unsigned __ballot_sync(unsigned mask, int p, EMU_AT) { return ::emu::vote(p, ::emu::Vote::ballot, mask, at); }
EMU_INLINE int __any_sync(unsigned mask, int p, EMU_AT) { return int(::emu::vote(p, ::emu::Vote::any, mask, at)); }
EMU_INLINE int __all_sync(unsigned mask, int p, EMU_AT) { return int(::emu::vote(p, ::emu::Vote::all, mask, at)); }
template <class T>
EMU_INLINE unsigned __match_any_sync(unsigned mask, T v, EMU_AT) {
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &v, sizeof(T));
    return ::emu::match_any(bits, mask, at);
}

#define EMU_REDUCE(name, T, kind) \
    EMU_INLINE T name(unsigned mask, T v, EMU_AT) { return T(::emu::reduce(v, ::emu::Reduction::kind, mask, at)); }
EMU_REDUCE(__reduce_add_sync, int, add)
EMU_REDUCE(__reduce_add_sync, unsigned, add)
EMU_REDUCE(__reduce_min_sync, int, minimum)
EMU_REDUCE(__reduce_min_sync, unsigned, minimum)
EMU_REDUCE(__reduce_max_sync, int, maximum)
EMU_REDUCE(__reduce_max_sync, unsigned, maximum)
EMU_REDUCE(__reduce_and_sync, unsigned, bit_and)
EMU_REDUCE(__reduce_or_sync, unsigned, bit_or)
EMU_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef EMU_REDUCE
