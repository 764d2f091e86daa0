// Kernels and their launches.
#pragma once
#include <string>
#include <vector>

#include "global_order.h"
#include "machine.h"

namespace emu {

struct Kernel {
    std::string name, file;
    AnyFunction function;
    void (*call)(AnyFunction, void**);
    Bounds bounds;
    std::vector<Argument> arguments;
};
// Null where there is none of this name.
const Kernel* find_kernel(Flavour flavour, const std::string& name);

struct LaunchOptions {
    bool checked = false;
    uint64_t seed = 0;
    bool strict_wgmma = true;
    uint64_t steps = 0;  // basic blocks and scheduler's steps that a block may take; 0: any number
    double seconds = 0;  // of processor time; 0: no limit
    Costs* costs = nullptr;
    uint32_t shared = SHARED_LIMIT;  // bytes of shared memory that a block may have
};
struct LaunchCounts {
    uint64_t switches = 0, accesses = 0;
};

struct LaunchState {
    const Kernel* kernel;
    void** arguments;
    LaunchOptions options;
    int device;
    uint32_t id;  // counts the device's launches
    bool failed = false;
    std::string error;           // complete but for its place, if `error_code` is set
    void* error_code = nullptr;  // the instruction that failed
    GlobalOrder order;
    LaunchCounts counts;
};

// Runs a launch to its end on the calling thread. Returns an empty string, or what went wrong. `arguments` as for
// cuLaunchKernel.
std::string run_launch(const Kernel& kernel, dim3 grid, dim3 threads, uint32_t dynamic_shared, void** arguments,
                       const LaunchOptions& options, int device, uint32_t id, LaunchCounts& counts);

}  // namespace emu
