// The state of one thread block in execution: its threads (lanes), its warps, its barriers and what is under way
// asynchronously. One operating-system thread runs the blocks of a launch one after another in one `Block`, which is reused.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clocks.h"
#include "emulated.h"
#include "fiber.h"
#include "shared_shadow.h"
#include "tensor_map.h"

namespace emu {

constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_MBARRIERS = 64;
constexpr uint32_t NAMED_BARRIERS = 16;
constexpr uint32_t MAX_WARPGROUPS = 8;

// Addresses within shared memory begin here, so that 0 is never valid. The window is larger than what a block may have,
// because variables are set apart from each other to make overruns visible.
constexpr uint32_t SHARED_BASE = 1024;
constexpr uint32_t SHARED_WINDOW = SHARED_BASE + (264 << 10);
constexpr uint32_t SHARED_LIMIT = 227 << 10;
constexpr uint32_t SHARED_STATIC_LIMIT = 48 << 10;

// Operations that are committed in groups and complete in order, some groups later (cp.async, bulk stores, wgmma).
template <class Operation>
struct Groups {
    std::vector<Operation> operations;
    std::vector<uint32_t> ends;  // of the groups committed and not complete
    uint32_t committed = 0, completed = 0;

    void start(const Operation& operation) { operations.push_back(operation); }
    void commit() {
        ends.push_back(uint32_t(operations.size()));
        committed++;
    }
    // Completes the oldest groups until `left` remain.
    template <class F>
    void complete(int left, F finish) {
        const int n = int(ends.size()) - left;
        if (n <= 0) return;
        const uint32_t end = ends[n - 1];
        for (uint32_t i = 0; i < end; i++) finish(operations[i]);
        operations.erase(operations.begin(), operations.begin() + end);
        ends.erase(ends.begin(), ends.begin() + n);
        for (uint32_t& e : ends) e -= end;
        completed += n;
    }
    bool pending() const { return !operations.empty(); }
    void clear() {
        operations.clear();
        ends.clear();
        committed = completed = 0;
    }
};

struct CopyAsync {
    void* to;
    const void* from;
    uint32_t bytes, bytes_read;
};
struct BulkLoad {
    TensorMapFields map;
    void* to;
    int box[5];
    uint64_t* barrier;
    uint32_t bytes;
};
struct BulkStore {
    TensorMapFields map;
    const void* from;
    int box[5];
    Location at;
};

// What a lane waits for.
enum class Wait : uint8_t { nothing, warp, barrier, mbarrier, exited };

struct Warp;
using WarpOperation = void (*)(Warp&, uint32_t mask);

struct Lane : LaneFace {
    void* stack_pointer = nullptr;
    Warp* warp = nullptr;
    uint16_t index = 0;  // within the block
    uint8_t lane = 0;    // within the warp
    Wait wait = Wait::exited;

    // The collective that this lane has arrived at, or the barrier that it waits for.
    WarpOperation operation = nullptr;
    const char* operation_name = "";
    void* arguments = nullptr;
    uint32_t mask = 0;
    Location at{std::source_location()};
    int barrier = 0;
    uint64_t* mbarrier = nullptr;
    uint32_t parity = 0;

    Groups<CopyAsync> copies;
    Groups<BulkStore> stores;
    uint32_t stores_read = 0;  // groups of stores that have read their shared memory

    // For the checker (clocks.h).
    ViewRef view;              // what this lane knows of the others
    uint32_t clock = 0;        // its own
    uint32_t proxy_fence = 0;  // its clock at its last fence.proxy.async
    uint32_t fence_clock = 0;  // and at its last __threadfence
    ViewRef fence_view;
    uint32_t pending_acquires = 0;  // relaxed atomics whose releases a later fence will acquire: see global_order.h

    Stack stack;
};
inline Lane* current() { return static_cast<Lane*>(current_face); }

struct WgmmaOperation {
    uint64_t a, b;
    int n, accumulate;
    bool a_mn_major, b_mn_major, a_in_registers;
    uint32_t accumulators;  // index into Warp::accumulators
    uint32_t a_registers[32][4];
};
// Accumulator registers that wgmma instructions in flight will write. Until they complete the registers hold NaN.
struct Accumulators {
    float* registers[32];
    int count, in_flight;
    std::vector<float> values;  // lane by lane
};
struct Warp {
    Lane* lanes[32];
    uint32_t count = 0, index = 0;
    uint32_t ready = 0, live = 0, waiting = 0;  // masks of lanes
    Groups<WgmmaOperation> wgmma;
    std::vector<Accumulators> accumulators;
    bool wgmma_fenced = false;
};

struct NamedBarrier {
    uint32_t arrived = 0, needed = 0;  // needed 0: all threads of the block
    Gathering gathering;
    ViewRef released;
};
struct Mbarrier {
    uint64_t* word;
    uint32_t phase = 0;  // phases completed
    uint16_t initialiser = 0;
    uint32_t initialised = 0;  // the initialiser's clock then
    bool fenced = false;       // the initialiser has made it visible to the asynchronous proxy
    Gathering gathering;
    ViewRef released;
};
struct SharedVariable {
    const void* tag;
    const char* name;
    uint32_t offset, size;
};

// What a launch asks of each of its blocks.
struct LaunchState;
class Costs;

struct Block {
    std::vector<Lane> lanes = std::vector<Lane>(MAX_THREADS);  // never copied: they hold references to views
    uint32_t stacks = 0;                                       // how many of the lanes have one
    std::vector<std::unique_ptr<Warp>> warp_storage;
    std::vector<Warp*> warps;  // those of this launch
    uint32_t threads = 0, live = 0;
    LaunchState* launch = nullptr;
    bool checked = false;
    uint64_t random = 0;  // state; 0: no randomness
    bool early = false;   // asynchronous copies land when they are issued, not when they are waited for
    bool strict_wgmma = false;
    bool aborted = false;
    void* scheduler = nullptr;  // the stack pointer of the code that runs the launch
    Stack scheduler_stack;

    // Shared memory.
    char* shared = nullptr;
    uint32_t dynamic_size = 0, dynamic_begin = 0, shared_top = 0, shared_dirty = 0, static_size = 0;
    bool dynamic_placed = false;
    std::vector<SharedVariable> variables;

    // Barriers; those beyond the 16 named ones are where warpgroups meet in wgmma.wait_group.
    NamedBarrier barriers[NAMED_BARRIERS + MAX_WARPGROUPS];
    uint32_t reduction_count = 0, reduction_readers = 0;
    std::vector<Mbarrier> mbarriers;
    std::vector<BulkLoad> loads;

    alignas(64) float wgmma_tile[16][256];  // B of the wgmma that is computed: too large for a lane's stack

    // For the checker.
    Clocks clocks;
    SharedShadow shadow;
    uint32_t linear_index = 0;  // of the block in its grid

    Costs* costs = nullptr;  // where accesses are counted (costs.h); null: they are not

    // Counted for statistics.
    uint64_t switches = 0, accesses = 0, steps = 0;

    bool in_shared(const void* p) const { return size_t(static_cast<const char*>(p) - shared) < SHARED_WINDOW; }
    uint32_t offset_of(const void* p) const { return uint32_t(static_cast<const char*>(p) - shared); }
    // Whether [offset, offset + size) lies within one variable (or the dynamic memory).
    bool allocated(uint32_t offset, uint32_t size) const {
        if (offset >= dynamic_begin && offset + size <= dynamic_begin + dynamic_size) return true;
        for (const SharedVariable& v : variables)
            if (offset >= v.offset && offset + size <= v.offset + v.size) return true;
        return false;
    }
    std::string describe_shared(uint32_t offset) const;

    // Readies the block for launches of `count` threads.
    void prepare(uint32_t count, uint32_t dynamic);
    // Runs one block of the grid to its end or its first error.
    void run(uint3 index);
};
extern __thread __attribute__((tls_model("initial-exec"))) Block* block;

// Parts of an mbarrier's word: [63] phase, [62:43] expected arrivals, [42:23] pending, [22:0] bytes under way (signed).
struct MbarrierWord {
    int phase, expected, pending, bytes;
    static MbarrierWord unpack(uint64_t w) {
        return {int(w >> 63), int(w >> 43 & 0xfffff), int(w >> 23 & 0xfffff), int(uint32_t(w & 0x7fffff) << 9) >> 9};
    }
    uint64_t pack() const {
        return uint64_t(phase) << 63 | uint64_t(expected) << 43 | uint64_t(pending) << 23 | (uint32_t(bytes) & 0x7fffff);
    }
};

// Ends a block's barriers' phases (barrier.cpp), a bulk load (tma.cpp), wgmma groups of a whole warpgroup (wgmma.cpp).
void barrier_thread_exited(Block& b);
bool complete_one_load(Block& b);
void complete_warpgroup(Block& b, uint32_t warpgroup);

// Checks that [p, p + size) is shared memory that the block has; returns its offset.
uint32_t require_shared(const void* p, uint32_t size, const char* what, Location at);
char* shared_at(uint32_t offset, uint32_t size, const char* what, Location at);

#define EMU_EACH_LANE(lane_, warp_, mask_)                    \
    for (uint32_t bits_ = (mask_); bits_; bits_ &= bits_ - 1) \
        if (Lane& lane_ = *(warp_).lanes[__builtin_ctz(bits_)]; true)

}  // namespace emu
