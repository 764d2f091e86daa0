// What the emulated GPU does for kernels: one function for each instruction that is more than arithmetic. `base/ptx.cuh` and
// the other headers here call them; kernels do not call them directly. The runtime (`kernels/emu/runtime`) implements them.
#pragma once

// In a namespace of its own, so that passing one on does not bring the services into the overloads of a kernel's function.
namespace emu_source {

// The place of a call in a kernel's source, for messages and for checks that the lanes of a warp arrive together.
struct Location {
    std::source_location source;
    constexpr Location(std::source_location source) : source(source) {}
    const char* file() const { return source.file_name(); }
    int line() const { return int(source.line()); }
    bool same(const Location& other) const {
        return line() == other.line() && source.column() == other.source.column() && !strcmp(file(), other.file());
    }
};

}  // namespace emu_source

namespace emu {

using emu_source::Location;

// What a kernel may see of the thread that runs it.
struct LaneFace {
    uint3 thread_index{};
};
struct Lane;
struct GridPosition {
    uint3 block_index, block_size, grid_size;
};
// Per operating-system thread; a CUDA thread never changes the operating-system thread that runs it.
extern __thread __attribute__((tls_model("initial-exec"))) LaneFace* current_face;
extern __thread __attribute__((tls_model("initial-exec"))) GridPosition position;

// ---- shared memory: `tag` tells one SHARED line from another
void* shared_static(const void* tag, const char* name, size_t size, size_t align, Location at);
void* shared_dynamic(size_t align, Location at);
uint32_t shared_address(const void* p, Location at);

// ---- warps
enum class Shuffle { index, up, down, exclusive_or };
uint64_t shuffle(uint64_t value, Shuffle kind, int operand, int width, uint32_t mask, Location at);
enum class Vote { ballot, any, all };
uint32_t vote(int predicate, Vote kind, uint32_t mask, Location at);
uint32_t match_any(uint64_t value, uint32_t mask, Location at);
enum class Reduction { add, minimum, maximum, bit_and, bit_or, bit_xor };
int64_t reduce(int64_t value, Reduction kind, uint32_t mask, Location at);
void warp_barrier(uint32_t mask, Location at);

// ---- blocks; `threads` = 0 means all of the block
void barrier_sync(int id, int threads, Location at);
void barrier_arrive(int id, int threads, Location at);
enum class BarrierReduction { any, all, count };
int barrier_reduce(int predicate, BarrierReduction kind, Location at);

// ---- memory order and atomics
void thread_fence(Location at);
enum class Order { relaxed, acquire_release };
// Called around every atomic operation: bounds, initialisation and happens-before.
void atomic_access(const void* p, size_t size, Order order, Location at);
uint32_t atomic_add_acq_rel(uint32_t* counter, uint32_t n, Location at);

// ---- cp.async
void cp_async(void* to, const void* from, uint32_t bytes, uint32_t bytes_read, Location at);
void cp_async_commit(Location at);
void cp_async_wait(int groups_left, Location at);  // < 0: everything, committed or not

// ---- mbarriers
void mbarrier_init(uint64_t* barrier, uint32_t arrivals, Location at);
void fence_mbarrier_init(Location at);
void fence_proxy_async(Location at);
void mbarrier_arrive(uint64_t* barrier, Location at);
void mbarrier_expect_tx(uint64_t* barrier, uint32_t bytes, Location at);
void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes, Location at);
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Location at);

// ---- TMA
void tma_load(void* to, const void* map, uint64_t* barrier, const int* box, int rank, Location at);
void tma_store(const void* map, const void* from, const int* box, int rank, Location at);
void tma_store_commit(Location at);
void tma_store_wait(int groups_left, bool read_only, Location at);

// ---- matrix fragments and products; arrays are the registers of the calling thread
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Location at);
void stmatrix(const uint32_t* r, int matrices, bool transposed, void* row, Location at);
void mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, Location at);

// ---- wgmma m64nNk16, bf16 operands, f32 sums. `d` has n / 2 registers. A comes from `a_registers` (4 of them) where that
// is not null, else from the tile that `a` describes. `accumulate` = 0 overwrites d.
void wgmma_bf16(float* d, int n, const uint32_t* a_registers, uint64_t a, uint64_t b, int accumulate, bool a_mn_major,
                bool b_mn_major, Location at);
void wgmma_fence(Location at);
void wgmma_commit(Location at);
void wgmma_wait(int groups_left, Location at);

// ---- the rest
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);
void copy_checked(void* to, const void* from, size_t n);
inline float flush(float x) { return fabsf(x) < FLT_MIN ? copysignf(0.f, x) : x; }  // .ftz

// ---- registration of kernels
enum class Flavour { fast, checked };
struct Bounds {
    int threads, blocks;
    constexpr Bounds(int threads, int blocks = 1) : threads(threads), blocks(blocks) {}
};
struct Argument {
    uint32_t size, align;
};
using AnyFunction = void (*)();
void register_kernel(Flavour flavour, const char* name, const char* file, AnyFunction function,
                     void (*call)(AnyFunction, void**), Bounds bounds, const Argument* arguments, size_t count);

struct Registration {
    template <class... A>
    Registration(Flavour flavour, const char* name, const char* file, void (*function)(A...), Bounds bounds) {
        static constexpr Argument arguments[] = {
            {uint32_t(sizeof(std::remove_cvref_t<A>)), uint32_t(alignof(std::remove_cvref_t<A>))}..., {0, 1}};
        register_kernel(flavour, name, file, AnyFunction(function), &call<A...>, bounds, arguments, sizeof...(A));
    }

  private:
    template <class... A>
    static void call(AnyFunction function, void** arguments) {
        call_with<A...>(function, arguments, std::index_sequence_for<A...>{});
    }
    template <class... A, size_t... I>
    static void call_with(AnyFunction function, [[maybe_unused]] void** arguments, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(A...)>(function)(*static_cast<std::remove_cvref_t<A>*>(arguments[I])...);
    }
};

}  // namespace emu
