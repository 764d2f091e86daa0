// Devices, contexts and their attributes; the emulated GPU's own settings and statistics.
#include <atomic>
#include <cstdlib>

#include "driver.h"
#include "fault.h"
#include "settings.h"

namespace emu {

static std::atomic<bool> initialised;
static std::mutex devices_mutex;
static Device* devices[MAX_DEVICES];  // never destroyed
static thread_local Device* current_of_thread;

bool driver_initialised() { return initialised; }
Device* current_device() { return current_of_thread; }
void set_current_device(Device* device) { current_of_thread = device; }
// As many as the environment says, until somebody claims one.
static std::atomic<int> claimed;
int device_count() { return claimed ? MAX_DEVICES : environment().devices; }

Device& device_at(int ordinal) {
    std::lock_guard<std::mutex> guard(devices_mutex);
    if (!devices[ordinal]) {
        devices[ordinal] = new Device(ordinal);
        if (ordinal == 0) devices[0]->settings = environment().settings, count_costs(*devices[0]);
    }
    return *devices[ordinal];
}
std::vector<Device*> devices_in_use() {
    std::lock_guard<std::mutex> guard(devices_mutex);
    std::vector<Device*> found;
    for (Device* d : devices)
        if (d) found.push_back(d);
    return found;
}

// "cuMemAlloc" names cuMemAlloc_v2 as well.
static bool names(const std::string& wanted, const char* function) {
    const size_t n = wanted.size();
    return !wanted.compare(0, n, function, 0, n) && (!function[n] || !strncmp(function + n, "_v", 2));
}

Entry::Entry(const char* function, Device* device, bool context) {
    if (!initialised) {
        error = NOT_INITIALIZED;
        return;
    }
    if (!device || (context && !device->retained)) {
        error = INVALID_CONTEXT;
        return;
    }
    device_ = device;
    lock_ = std::unique_lock<std::recursive_mutex>(device->mutex);
    const Settings& s = device->settings;
    if (!s.fail_call.empty() && names(s.fail_call, function) && ++device->calls_to_fail == s.fail_nth) {
        error = Result(s.fail_code);
        if (error >= ILLEGAL_ADDRESS && error < NOT_PERMITTED)
            set_sticky(*device, error, formatted("%s failed, as the settings of the emulated GPU demand", function));
        return;
    }
    error = device->sticky;
}

void set_sticky(Device& d, Result error, std::string text) {
    if (d.sticky) return;
    d.sticky = error;
    d.error_text = std::move(text);
    fprintf(stderr, "emulated GPU %d: %s\n", d.ordinal, d.error_text.c_str());
}

int shared_opt_in(const Settings& s) {
    if (s.capability_major >= 9) return 227 << 10;
    return s.capability_major == 8 && s.capability_minor == 0 ? 163 << 10 : 99 << 10;
}

// Numbers of CUdevice_attribute.
static int attribute(const Settings& s, int number) {
    switch (number) {
        case 1: return 1024;  // MAX_THREADS_PER_BLOCK
        case 2:
        case 3: return 1024;        // MAX_BLOCK_DIM_X, _Y
        case 4: return 64;          // MAX_BLOCK_DIM_Z
        case 5: return 0x7fffffff;  // MAX_GRID_DIM_X
        case 6:
        case 7: return 65535;     // MAX_GRID_DIM_Y, _Z
        case 8: return 48 << 10;  // MAX_SHARED_MEMORY_PER_BLOCK
        case 9: return 64 << 10;  // TOTAL_CONSTANT_MEMORY
        case 10: return 32;       // WARP_SIZE
        case 12:
        case 82: return 65536;               // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
        case 13: return 1'000'000;           // CLOCK_RATE, kHz
        case 16: return s.multiprocessors;   // MULTIPROCESSOR_COUNT
        case 19: return 1;                   // CAN_MAP_HOST_MEMORY
        case 31: return 1;                   // CONCURRENT_KERNELS
        case 33: return 1;                   // PCI_BUS_ID
        case 36: return 1'000'000;           // MEMORY_CLOCK_RATE, kHz
        case 37: return 512;                 // GLOBAL_MEMORY_BUS_WIDTH, bits
        case 38: return 4 << 20;             // L2_CACHE_SIZE
        case 39: return 2048;                // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: return 2;                   // ASYNC_ENGINE_COUNT
        case 41: return 1;                   // UNIFIED_ADDRESSING
        case 75: return s.capability_major;  // COMPUTE_CAPABILITY_MAJOR
        case 76: return s.capability_minor;
        case 78: return 1;                             // STREAM_PRIORITIES_SUPPORTED
        case 81: return shared_opt_in(s) + (1 << 10);  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 97: return shared_opt_in(s);              // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: return 32;                           // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 111: return 1 << 10;                      // RESERVED_SHARED_MEMORY_PER_BLOCK
        case 115: return 1;                            // MEMORY_POOLS_SUPPORTED
        case 127: return s.capability_major >= 9;      // TENSOR_MAP_ACCESS_SUPPORTED
        default: return 0;
    }
}

}  // namespace emu

using namespace emu;

EMU_EXPORT int cuInit(unsigned flags) {
    if (flags) return INVALID_VALUE;
    const Settings& s = environment().settings;
    if (s.fail_call == "cuInit") return s.fail_code;  // before any device is there to count calls
    if (device_count() == 0) return NO_DEVICE;
    initialised = true;
    return SUCCESS;
}
EMU_EXPORT int cuDriverGetVersion(int* version) {
    const Device* d = current_of_thread;
    *version = d ? d->settings.driver_version : environment().settings.driver_version;
    return SUCCESS;
}
EMU_EXPORT int cuDeviceGetCount(int* count) {
    if (!initialised) return NOT_INITIALIZED;
    *count = device_count();
    return SUCCESS;
}
EMU_EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (!initialised) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
    EMU_ENTER(entry, __func__, &device_at(ordinal), false);
    *device = ordinal;
    return SUCCESS;
}

// The functions below take a device by its number.
static Device* checked_device(int device) { return device >= 0 && device < device_count() ? &device_at(device) : nullptr; }
#define ENTER_DEVICE(entry, number)                                       \
    Device* const numbered = checked_device(number);                      \
    if (!numbered) return initialised ? INVALID_DEVICE : NOT_INITIALIZED; \
    EMU_ENTER(entry, __func__, numbered, false)

EMU_EXPORT int cuDeviceGetName(char* name, int length, int device) {
    ENTER_DEVICE(entry, device);
    const Settings& s = entry.device().settings;
    snprintf(name, size_t(length), "Emulated GPU (%s, seed %llu)", s.checked ? "checked" : "fast",
             (unsigned long long)s.seed);
    return SUCCESS;
}
static int device_uuid(char* uuid, int device) {
    memcpy(uuid, "gramophone-emu\0\0", 16);
    uuid[14] = char(device >> 8), uuid[15] = char(device);
    return SUCCESS;
}
EMU_EXPORT int cuDeviceGetUuid(char* uuid, int device) {
    ENTER_DEVICE(entry, device);
    return device_uuid(uuid, device);
}
EMU_EXPORT int cuDeviceGetUuid_v2(char* uuid, int device) {
    ENTER_DEVICE(entry, device);
    return device_uuid(uuid, device);
}
EMU_EXPORT int cuDeviceGetAttribute(int* value, int number, int device) {
    ENTER_DEVICE(entry, device);
    *value = attribute(entry.device().settings, number);
    return SUCCESS;
}
EMU_EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER_DEVICE(entry, device);
    *bytes = entry.device().settings.memory;
    return SUCCESS;
}
EMU_EXPORT int cuDeviceGetPCIBusId(char* text, int length, int device) {
    ENTER_DEVICE(entry, device);
    snprintf(text, size_t(length), "0000:%02x:%02x.0", device >> 5, device & 31);
    return SUCCESS;
}

// ---- contexts: a device's primary context is the device itself

EMU_EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER_DEVICE(entry, device);
    entry.device().retained++;
    *context = &entry.device();
    return SUCCESS;
}
EMU_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    Device* d = checked_device(device);
    if (!d) return INVALID_DEVICE;
    std::lock_guard<std::recursive_mutex> guard(d->mutex);  // releasing works on a failed device, too
    if (!d->retained) return INVALID_CONTEXT;
    if (--d->retained) return SUCCESS;
    for (auto& s : d->streams) s->queue.clear(), s->done = s->issued;
    d->default_stream->queue.clear();
    d->default_stream->done = d->default_stream->issued;
    free_everything(*d);
    return SUCCESS;
}
EMU_EXPORT int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    ENTER_DEVICE(entry, device);
    *flags = 0, *active = entry.device().retained > 0;
    return SUCCESS;
}
EMU_EXPORT int cuCtxSetCurrent(void* context) {
    if (!initialised) return NOT_INITIALIZED;
    set_current_device(static_cast<Device*>(context));
    return SUCCESS;
}
EMU_EXPORT int cuCtxGetCurrent(void** context) {
    if (!initialised) return NOT_INITIALIZED;
    *context = current_device();
    return SUCCESS;
}
EMU_EXPORT int cuCtxGetDevice(int* device) {
    EMU_ENTER(entry, __func__);
    *device = entry.device().ordinal;
    return SUCCESS;
}
EMU_EXPORT int cuCtxSynchronize() {
    EMU_ENTER(entry, __func__);
    if (Result r = refuse_during_capture(entry.device())) return r;
    return run_everything(entry.device());
}
EMU_EXPORT int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    EMU_ENTER(entry, __func__);
    *least = 0, *greatest = -5;
    return SUCCESS;
}

// ---- the emulated GPU's own functions, for kernels/emu/src/lib.rs

EMU_EXPORT int emu_configure(const EmuConfiguration* c) {
    const int ordinal = ++claimed;  // 0 belongs to the environment
    if (ordinal >= MAX_DEVICES) return -1;
    Device& d = device_at(ordinal);
    std::lock_guard<std::recursive_mutex> guard(d.mutex);
    d.settings = settings_of(*c);
    count_costs(d);
    return ordinal;
}
EMU_EXPORT int emu_statistics(int ordinal, Statistics* out) {
    Device* d = checked_device(ordinal);
    if (!d) return INVALID_DEVICE;
    std::lock_guard<std::recursive_mutex> guard(d->mutex);
    *out = d->statistics;
    return SUCCESS;
}
// The text stays valid while the process lives: errors are sticky.
EMU_EXPORT const char* emu_last_error(int ordinal) {
    Device* d = checked_device(ordinal);
    return d ? d->error_text.c_str() : "";
}
