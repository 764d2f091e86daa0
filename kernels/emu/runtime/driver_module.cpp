// Modules, functions and launches. The image of a module is not looked at: the kernels are those compiled into this library,
// and a function is found by its name. Kernels from files named *_sm90* exist on devices of capability 9.x only, as their
// code would.
#include <algorithm>

#include "driver.h"
#include "fault.h"
#include "heap.h"

namespace emu {

static const Kernel* kernel_for(const Settings& s, const char* name) {
    const Kernel* kernel = find_kernel(s.checked ? Flavour::checked : Flavour::fast, name);
    if (!kernel || (kernel->file.find("_sm90") != std::string::npos && s.capability_major != 9)) return nullptr;
    return kernel;
}

// Registers a thread may have under the kernel's launch bounds; the compiler's real number is in the ledger that nvcc makes.
static int register_limit(const Kernel& k) {
    return std::min(255, 65536 / (k.bounds.threads * std::max(1, k.bounds.blocks)) / 8 * 8);
}

static int occupancy(int* blocks, Function* f, int threads, size_t dynamic) {
    if (threads < 1 || threads > 1024) return INVALID_VALUE;
    const int shared = shared_opt_in(f->device->settings) + 1024, each = int(dynamic) + 1024;
    const int by_registers = 65536 / (std::max(1, register_limit(*f->kernel)) * ((threads + 31) / 32 * 32));
    *blocks =
        std::min({32, 2048 / ((threads + 31) / 32 * 32), shared / each, std::max(by_registers, f->kernel->bounds.blocks)});
    return SUCCESS;
}

// A copy of a launch's arguments: the caller's may change once the call returns.
class Arguments {
  public:
    Arguments(const Kernel& k, void** from) {
        for (size_t i = 0; i < k.arguments.size(); i++) {
            storage_.emplace_back((k.arguments[i].size + 63) / 64);
            memcpy(storage_.back().data(), from[i], k.arguments[i].size);
        }
    }
    std::vector<void*> pointers() {
        std::vector<void*> p;
        for (auto& s : storage_) p.push_back(s.data());
        return p;
    }

  private:
    struct alignas(64) Unit {
        char bytes[64];
    };
    std::vector<std::vector<Unit>> storage_;
};

static Result launch(Device& d, const Kernel& kernel, dim3 grid, dim3 threads, uint32_t dynamic, Arguments& arguments) {
    const Settings& s = d.settings;
    if (++d.launch_id % 0x3fffe == 0) heap_forget_accesses(d.ordinal);  // the checker's numbers of launches begin anew
    LaunchCounts counts;
    std::vector<void*> pointers = arguments.pointers();
    const std::string error =
        run_launch(kernel, grid, threads, dynamic, pointers.data(),
                   {s.checked, s.seed, s.strict_wgmma, s.steps, s.seconds, d.costs.get(), uint32_t(shared_opt_in(s))},
                   d.ordinal, d.launch_id % 0x3fffe + 1, counts);
    d.statistics.launches++;
    d.statistics.switches += counts.switches;
    d.statistics.accesses += counts.accesses;
    if (error.empty()) return SUCCESS;
    set_sticky(d, LAUNCH_FAILED, error);
    return LAUNCH_FAILED;
}

// Refuses a launch with a message, which the driver's error codes would not tell.
static Result refuse(Device& d, Result error, const Kernel& k, const std::string& why) {
    fprintf(stderr, "emulated GPU %d: launch of %s refused: %s\n", d.ordinal, k.name.c_str(), why.c_str());
    return error;
}

static Result check_launch(Device& d, const Function& f, dim3 grid, dim3 threads, uint32_t dynamic, void** arguments) {
    const Kernel& k = *f.kernel;
    const uint64_t count = uint64_t(threads.x) * threads.y * threads.z;
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return refuse(d, INVALID_VALUE, k, formatted("a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z));
    if (!count || count > MAX_THREADS || threads.x > 1024 || threads.y > 1024 || threads.z > 64)
        return refuse(d, INVALID_VALUE, k, formatted("blocks of %u x %u x %u threads", threads.x, threads.y, threads.z));
    if (count != uint64_t(k.bounds.threads))
        return refuse(d, count > uint64_t(k.bounds.threads) ? LAUNCH_OUT_OF_RESOURCES : INVALID_VALUE, k,
                      formatted("blocks of %u threads, where its KERNEL line says %d", unsigned(count), k.bounds.threads));
    if (dynamic > f.max_dynamic_shared)
        return refuse(d, INVALID_VALUE, k,
                      formatted("%u bytes of dynamic shared memory, where the function's limit is %u (beyond 48 KB "
                                "MAX_DYNAMIC_SHARED_SIZE_BYTES must be set)",
                                dynamic, f.max_dynamic_shared));
    if (!k.arguments.empty() && !arguments) return refuse(d, INVALID_VALUE, k, "no arguments");
    for (size_t i = 0; i < k.arguments.size(); i++)
        if (!arguments[i]) return refuse(d, INVALID_VALUE, k, formatted("argument %zu is missing", i));
    return SUCCESS;
}

static int queue_launch(Entry& entry, void* function, dim3 grid, dim3 threads, unsigned dynamic, void* stream_handle,
                        void** arguments, void** extra) {
    Device& d = entry.device();
    auto* f = static_cast<Function*>(function);
    if (!d.functions.count(f)) return INVALID_HANDLE;
    auto stream = find_stream(d, stream_handle);
    if (!stream) return INVALID_HANDLE;
    if (extra) return NOT_SUPPORTED;
    if (Result r = check_launch(d, *f, grid, threads, dynamic, arguments)) return r;
    return enqueue(d, stream,
                   [kernel = f->kernel, grid, threads, dynamic, copy = Arguments(*f->kernel, arguments)](Device& d) mutable {
                       return launch(d, *kernel, grid, threads, dynamic, copy);
                   });
}

}  // namespace emu

using namespace emu;

static int load_module(void** handle, const void* image, const char* function) {
    EMU_ENTER(entry, function);
    if (!image) return INVALID_VALUE;
    auto module = std::make_unique<Module>();
    *handle = module.get();
    entry.device().modules[module.get()] = std::move(module);
    return SUCCESS;
}
EMU_EXPORT int cuModuleLoadData(void** handle, const void* image) { return load_module(handle, image, __func__); }
EMU_EXPORT int cuModuleLoadDataEx(void** handle, const void* image, unsigned, int*, void**) {
    return load_module(handle, image, __func__);
}
EMU_EXPORT int cuModuleLoadFatBinary(void** handle, const void* image) { return load_module(handle, image, __func__); }
EMU_EXPORT int cuModuleUnload(void* handle) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto found = d.modules.find(static_cast<Module*>(handle));
    if (found == d.modules.end()) return INVALID_HANDLE;
    for (auto& [name, f] : found->second->functions) d.functions.erase(f.get());
    d.modules.erase(found);
    return SUCCESS;
}
EMU_EXPORT int cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto module = d.modules.find(static_cast<Module*>(module_handle));
    if (module == d.modules.end()) return INVALID_HANDLE;
    const Kernel* kernel = kernel_for(d.settings, name);
    if (!kernel) return NOT_FOUND;
    std::unique_ptr<Function>& f = module->second->functions[name];
    if (!f) f = std::make_unique<Function>(Function{&d, kernel});
    d.functions.insert(f.get());
    *handle = f.get();
    return SUCCESS;
}

#define FIND_FUNCTION(f, handle)              \
    auto* f = static_cast<Function*>(handle); \
    if (!entry.device().functions.count(f)) return INVALID_HANDLE

// Numbers of CUfunction_attribute.
EMU_EXPORT int cuFuncGetAttribute(int* value, int number, void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    const Settings& s = f->device->settings;
    switch (number) {
        case 0: *value = f->kernel->bounds.threads; break;   // MAX_THREADS_PER_BLOCK
        case 4: *value = register_limit(*f->kernel); break;  // NUM_REGS
        case 5:
        case 6: *value = s.capability_major * 10 + s.capability_minor; break;  // PTX_VERSION, BINARY_VERSION
        case 8: *value = int(f->max_dynamic_shared); break;                    // MAX_DYNAMIC_SHARED_SIZE_BYTES
        case 9: *value = -1; break;                                            // PREFERRED_SHARED_MEMORY_CARVEOUT
        default: *value = 0;  // static shared memory and local memory are not known before a launch
    }
    return SUCCESS;
}
EMU_EXPORT int cuFuncSetAttribute(void* handle, int number, int value) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    if (number == 9) return SUCCESS;
    if (number != 8 || value < 0 || value > shared_opt_in(f->device->settings)) return INVALID_VALUE;
    f->max_dynamic_shared = uint32_t(value);
    return SUCCESS;
}
EMU_EXPORT int cuFuncSetCacheConfig(void* handle, int) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    return SUCCESS;
}
EMU_EXPORT int cuFuncGetName(const char** name, void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    *name = f->kernel->name.c_str();
    return SUCCESS;
}
EMU_EXPORT int cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    const std::vector<Argument>& arguments = f->kernel->arguments;
    if (index >= arguments.size()) return INVALID_VALUE;
    size_t at = 0;
    for (size_t i = 0; i <= index; i++) {
        at = (at + arguments[i].align - 1) / arguments[i].align * arguments[i].align;
        if (i < index) at += arguments[i].size;
    }
    *offset = at;
    if (size) *size = arguments[index].size;
    return SUCCESS;
}
EMU_EXPORT int cuFuncGetParamCount(void* handle, size_t* count) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    *count = f->kernel->arguments.size();
    return SUCCESS;
}
EMU_EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    return occupancy(blocks, f, threads, dynamic);
}
EMU_EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t dynamic,
                                                                    unsigned) {
    EMU_ENTER(entry, __func__);
    FIND_FUNCTION(f, handle);
    return occupancy(blocks, f, threads, dynamic);
}

EMU_EXPORT int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned dynamic, void* stream, void** arguments, void** extra) {
    EMU_ENTER(entry, __func__);
    return queue_launch(entry, function, {gx, gy, gz}, {bx, by, bz}, dynamic, stream, arguments, extra);
}
struct LaunchConfig {
    unsigned grid[3], block[3], dynamic;
    void* stream;
    void* attributes;
    unsigned attribute_count;
};
EMU_EXPORT int cuLaunchKernelEx(const LaunchConfig* c, void* function, void** arguments, void** extra) {
    EMU_ENTER(entry, __func__);
    if (c->attribute_count) {
        fprintf(stderr, "emulated GPU: launches with attributes (clusters, dependent launches) are not emulated\n");
        return NOT_SUPPORTED;
    }
    return queue_launch(entry, function, {c->grid[0], c->grid[1], c->grid[2]}, {c->block[0], c->block[1], c->block[2]},
                        c->dynamic, c->stream, arguments, extra);
}
