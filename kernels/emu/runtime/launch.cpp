// Kernels and their launches: the table of kernels, and the execution of a grid, one block after another on the calling
// thread.
#include "launch.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include <sys/mman.h>

#include "costs.h"
#include "fault.h"
#include "heap.h"
#include "scheduler.h"

namespace emu {

__thread LaneFace* current_face;
__thread GridPosition position;
__thread Block* block;

// ---- the table

static std::unordered_map<std::string, Kernel>& table(Flavour flavour) {
    static std::unordered_map<std::string, Kernel> tables[2];  // made at the first registration, whatever the order of files
    return tables[flavour == Flavour::checked];
}
void register_kernel(Flavour flavour, const char* name, const char* file, AnyFunction function,
                     void (*call)(AnyFunction, void**), Bounds bounds, const Argument* arguments, size_t count) {
    auto [known, fresh] = table(flavour).try_emplace(
        name, Kernel{name, file, function, call, bounds, std::vector<Argument>(arguments, arguments + count)});
    if (fresh) return;
    fprintf(stderr, "emulated GPU: kernel %s is defined in %s and in %s\n", name, known->second.file.c_str(), file);
    abort();
}
const Kernel* find_kernel(Flavour flavour, const std::string& name) {
    auto found = table(flavour).find(name);
    return found == table(flavour).end() ? nullptr : &found->second;
}

// ---- one thread of a block

static void require_nothing_pending(const Lane& l) {
    if (l.copies.pending()) fail(l.at, "the thread leaves the kernel with a cp.async that was never waited for");
    if (l.stores.pending())
        fail(l.stores.operations.back().at, "the thread leaves the kernel with a TMA store that was never waited for");
    const bool last_of_warp = !(l.warp->live & (l.warp->live - 1));
    if (last_of_warp && l.warp->wgmma.pending())
        fail(l.at, "the warp leaves the kernel with a wgmma that was never waited for");
}
static void lane_main() {
    for (;;) {
        Block& b = *block;
        b.launch->kernel->call(b.launch->kernel->function, b.launch->arguments);
        Lane& l = *current();
        require_nothing_pending(l);
        set_waiting(l, Wait::exited);
        l.warp->live &= ~(1u << l.lane);
        b.live--;
        if (b.live) barrier_thread_exited(b);
        else if (!b.loads.empty()) fail(l.at, "the block ends with %zu TMA load(s) under way", b.loads.size());
        yield_exited();
    }
}

// ---- one block

void Block::prepare(uint32_t count, uint32_t dynamic) {
    if (!shared) {
        const size_t guard = 64 << 10;
        void* p =
            mmap(nullptr, SHARED_WINDOW + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        mprotect(static_cast<char*>(p) + SHARED_WINDOW, guard, PROT_NONE);
        shared = static_cast<char*>(p);
        shared_dirty = SHARED_BASE;
        mbarriers.reserve(MAX_MBARRIERS);
    }
    if (count > stacks) {
        std::vector<Stack> fresh(count - stacks);
        map_stacks(fresh.data(), fresh.size());
        for (const Stack& stack : fresh) lanes[stacks++].stack = stack;
    }
    threads = count;
    dynamic_size = dynamic;
    warps.clear();
    for (uint32_t i = 0; i * 32 < count; i++) {
        if (i == warp_storage.size()) warp_storage.push_back(std::make_unique<Warp>());
        Warp& w = *warp_storage[i];
        w.index = i;
        w.count = std::min(32u, count - 32 * i);
        warps.push_back(&w);
    }
    for (uint32_t i = 0; i < count; i++) {
        Lane& l = lanes[i];
        l.index = uint16_t(i);
        l.lane = uint8_t(i % 32);
        l.warp = warps[i / 32];
        l.warp->lanes[l.lane] = &l;
    }
}

// Stacks begin at different places within a page, else all lanes would compete for the same cache sets.
static void prime_lanes(Block& b) {
    for (uint32_t i = 0; i < b.threads; i++)
        b.lanes[i].stack_pointer = prime_fiber(b.lanes[i].stack, i * 832 % 4096, lane_main);
}

static void reset_lanes(Block& b) {
    uint3 index{0, 0, 0};
    const uint3 size = position.block_size;
    for (uint32_t i = 0; i < b.threads; i++) {
        Lane& l = b.lanes[i];
        l.thread_index = index;
        if (++index.x == size.x) {
            index.x = 0;
            if (++index.y == size.y) index.y = 0, index.z++;
        }
        l.wait = Wait::nothing;
        l.copies.clear();
        l.stores.clear();
        l.stores_read = 0;
    }
    for (Warp* w : b.warps) {
        w->live = w->ready = w->count == 32 ? ~0u : (1u << w->count) - 1;
        w->waiting = 0;
        w->wgmma.clear();
        w->accumulators.clear();
        w->wgmma_fenced = false;
    }
}

// The first 1024 bytes and more are for dynamic memory, which SHARED_DYNAMIC places; variables follow.
static void reset_shared(Block& b) {
    b.variables.clear();
    b.static_size = 0;
    b.dynamic_placed = false;
    b.dynamic_begin = SHARED_BASE;
    b.shared_top = SHARED_BASE + (b.dynamic_size ? b.dynamic_size + 1024 : 0);
    b.shared_dirty = std::max(b.shared_dirty, b.shared_top);
    memset(b.shared + SHARED_BASE, 0xff, b.shared_dirty - SHARED_BASE);
}

void Block::run(uint3 index) {
    position.block_index = index;
    const uint3 grid = position.grid_size;
    linear_index = index.x + grid.x * (index.y + grid.y * index.z);
    live = threads;
    aborted = false;
    steps = 0;
    reset_lanes(*this);
    reset_shared(*this);
    loads.clear();
    reduction_count = reduction_readers = 0;
    if (checked) {
        clocks.reset(*this);
        shadow.reset();
        launch->order.begin_block();
    }
    mbarriers.clear();
    for (NamedBarrier& b : barriers) b.arrived = b.needed = 0;
    const uint64_t seed = launch->options.seed;
    random = seed ? (seed * 0x9e3779b97f4a7c15ull ^ (linear_index + 1) * 0x2545f4914f6cdd1dull) | 1 : 0;
    Lane& first = lanes[random ? random_bits(*this) % threads : 0];
    current_face = &first;
    emu_switch_fiber(&scheduler, first.stack_pointer);
    current_face = nullptr;
    if (costs && !aborted) costs->end_block();
}

// ---- a grid

// Executors are kept, and never destroyed: their stacks are costly to map. One launch has one at a time.
static std::mutex idle_mutex;
static std::vector<Block*>& idle_executors() {
    static auto* idle = new std::vector<Block*>;
    return *idle;
}
static Block* take_executor() {
    std::lock_guard<std::mutex> guard(idle_mutex);
    if (idle_executors().empty()) return new Block;
    Block* b = idle_executors().back();
    idle_executors().pop_back();
    return b;
}
static void give_executor(Block* b) {
    std::lock_guard<std::mutex> guard(idle_mutex);
    idle_executors().push_back(b);
}

std::string run_launch(const Kernel& kernel, dim3 grid, dim3 threads, uint32_t dynamic_shared, void** arguments,
                       const LaunchOptions& options, int device, uint32_t id, LaunchCounts& counts) {
    install_fault_handlers();
    LaunchState state{&kernel, arguments, options, device, id, false, "", nullptr, {}, {}};
    Block& b = *take_executor();
    block = &b;
    b.launch = &state;
    b.checked = options.checked;
    b.strict_wgmma = options.strict_wgmma;
    b.costs = options.costs;
    if (b.costs) b.costs->begin_launch(&kernel);
    b.early = options.seed > 1 && options.seed % 2;
    b.switches = b.accesses = 0;
    position.block_size = {threads.x, threads.y, threads.z};
    position.grid_size = {grid.x, grid.y, grid.z};
    b.prepare(threads.x * threads.y * threads.z, dynamic_shared);
    prime_lanes(b);
    limit_processor_time(options.seconds);
    const uint64_t count = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < count && !state.failed; i++) {
        const uint64_t j = options.seed % 2 ? count - 1 - i : i;  // odd seeds: the last block first
        b.run(uint3{unsigned(j % grid.x), unsigned(j / grid.x % grid.y), unsigned(j / grid.x / grid.y)});
    }
    limit_processor_time(0);
    counts.switches += b.switches;
    counts.accesses += b.accesses;
    give_executor(&b);
    if (!state.failed) return "";
    return state.error_code ? symbolize(state.error_code) + ": " + state.error : state.error;
}

}  // namespace emu
