// Device and pinned memory, copies and fills. Copies from the host read it when they run, which may be long after the call;
// the destination of a copy to the host holds 0xff bytes until then.
#include <cstdlib>

#include "driver.h"
#include "fault.h"
#include "heap.h"

namespace emu {

static char* host_pointer(DevicePointer p) { return reinterpret_cast<char*>(p); }

bool valid_range(Device& d, DevicePointer p, size_t size) {
    char* begin;
    size_t bytes;
    int owner;
    if (!heap_contains(host_pointer(p)) || !heap_find(host_pointer(p), &begin, &bytes, &owner)) return false;
    return owner == d.ordinal && size_t(host_pointer(p) - begin) + size <= bytes;
}

// What an operation finds when it runs: the buffer may have been freed since it was queued.
static Result require_range(Device& d, DevicePointer p, size_t size, const char* what) {
    if (!size || valid_range(d, p, size)) return SUCCESS;
    set_sticky(d, ILLEGAL_ADDRESS, formatted("%s of %zu bytes: %s", what, size, heap_describe(host_pointer(p)).c_str()));
    return ILLEGAL_ADDRESS;
}
static void mark_initialised(Device& d, DevicePointer p, size_t size) {
    if (d.settings.checked) memset(heap_state + heap_offset(host_pointer(p)), INITIALISED, size);
}

static int allocate(Device& d, DevicePointer* p, size_t size) {
    if (!size) return INVALID_VALUE;
    const uint64_t ours = d.settings.memory - std::min(d.settings.taken, d.settings.memory);
    if (size > ours || d.statistics.allocated > ours - size) return OUT_OF_MEMORY;
    char* memory = heap_allocate(d.ordinal, size, d.settings.checked);
    if (!memory) return OUT_OF_MEMORY;
    *p = reinterpret_cast<DevicePointer>(memory);
    d.statistics.allocated += size;
    d.statistics.allocations++;
    d.statistics.peak = std::max(d.statistics.peak, d.statistics.allocated);
    return SUCCESS;
}
static bool release(Device& d, DevicePointer p) {
    const size_t size = heap_size(d.ordinal, host_pointer(p));
    if (!size) return false;
    heap_free(d.ordinal, host_pointer(p));
    d.statistics.allocated -= size;
    d.statistics.allocations--;
    return true;
}

void free_everything(Device& d) {
    d.statistics.leaked += d.statistics.allocated;
    d.statistics.allocated = d.statistics.allocations = 0;
    heap_free_all(d.ordinal);
}

static Operation copy_in(DevicePointer to, const void* from, size_t n) {
    return [=](Device& d) {
        if (Result r = require_range(d, to, n, "copy to the device")) return r;
        memcpy(host_pointer(to), from, n);
        mark_initialised(d, to, n);
        return SUCCESS;
    };
}
static Operation copy_out(void* to, DevicePointer from, size_t n) {
    return [=](Device& d) {
        if (Result r = require_range(d, from, n, "copy to the host")) return r;
        memcpy(to, host_pointer(from), n);
        return SUCCESS;
    };
}
static Operation copy_within(DevicePointer to, DevicePointer from, size_t n) {
    return [=](Device& d) {
        if (Result r = require_range(d, from, n, "copy within the device (source)")) return r;
        if (Result r = require_range(d, to, n, "copy within the device (destination)")) return r;
        memmove(host_pointer(to), host_pointer(from), n);
        if (d.settings.checked)
            memmove(heap_state + heap_offset(host_pointer(to)), heap_state + heap_offset(host_pointer(from)), n);
        return SUCCESS;
    };
}
template <class T>
static Operation fill(DevicePointer to, T value, size_t n) {
    return [=](Device& d) {
        if (Result r = require_range(d, to, n * sizeof(T), "fill")) return r;
        std::fill_n(reinterpret_cast<T*>(host_pointer(to)), n, value);
        mark_initialised(d, to, n * sizeof(T));
        return SUCCESS;
    };
}

// Queues an operation on a stream; the synchronous forms queue on the default stream and wait.
static int queue(Entry& entry, void* stream_handle, Operation operation) {
    auto stream = find_stream(entry.device(), stream_handle);
    return stream ? enqueue(entry.device(), stream, std::move(operation)) : INVALID_HANDLE;
}
static int perform(Entry& entry, Operation operation) {
    Device& d = entry.device();
    if (Result r = enqueue(d, d.default_stream, std::move(operation))) return r;
    return run_until(d, *d.default_stream, d.default_stream->issued);
}

}  // namespace emu

using namespace emu;

#define CHECK_RANGE(p, n) \
    if (!valid_range(entry.device(), p, n)) return INVALID_VALUE
#define NOTHING_TO_DO(n) \
    if (!(n)) return SUCCESS

EMU_EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
    EMU_ENTER(entry, __func__);
    *total = entry.device().settings.memory;
    *free = *total - std::min(*total, size_t(entry.device().settings.taken)) - entry.device().statistics.allocated;
    return SUCCESS;
}
EMU_EXPORT int cuMemAlloc_v2(DevicePointer* p, size_t size) {
    EMU_ENTER(entry, __func__);
    if (Result r = refuse_during_capture(entry.device())) return r;
    return allocate(entry.device(), p, size);
}
// Waits for everything, as the GPU's does.
EMU_EXPORT int cuMemFree_v2(DevicePointer p) {
    EMU_ENTER(entry, __func__);
    if (!p) return SUCCESS;
    if (Result r = refuse_during_capture(entry.device())) return r;
    if (Result r = run_everything(entry.device())) return r;
    return release(entry.device(), p) ? SUCCESS : INVALID_VALUE;
}
EMU_EXPORT int cuMemAllocAsync(DevicePointer* p, size_t size, void* stream_handle) {
    EMU_ENTER(entry, __func__);
    auto stream = find_stream(entry.device(), stream_handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return NOT_SUPPORTED;
    return allocate(entry.device(), p, size);
}
EMU_EXPORT int cuMemFreeAsync(DevicePointer p, void* stream_handle) {
    EMU_ENTER(entry, __func__);
    auto stream = find_stream(entry.device(), stream_handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return NOT_SUPPORTED;
    if (!heap_size(entry.device().ordinal, host_pointer(p))) return INVALID_VALUE;
    return queue(entry, stream_handle, [p](Device& d) { return release(d, p) ? SUCCESS : ILLEGAL_ADDRESS; });
}

// ---- pinned host memory

static int allocate_host(void** p, size_t size, const char* function) {
    EMU_ENTER(entry, function);
    if (!size) return INVALID_VALUE;
    void* memory = aligned_alloc(4096, (size + 4095) & ~size_t(4095));
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, size);
    entry.device().host_memory[memory] = size;
    *p = memory;
    return SUCCESS;
}
EMU_EXPORT int cuMemHostAlloc(void** p, size_t size, unsigned) { return allocate_host(p, size, __func__); }
EMU_EXPORT int cuMemAllocHost_v2(void** p, size_t size) { return allocate_host(p, size, __func__); }
EMU_EXPORT int cuMemFreeHost(void* p) {
    Device* d = current_device();
    if (!d) return INVALID_CONTEXT;
    std::lock_guard<std::recursive_mutex> guard(d->mutex);  // works on a failed device, too, whose queues no longer run
    if (!d->host_memory.count(p)) return INVALID_VALUE;
    run_everything(*d);
    d->host_memory.erase(p);
    free(p);
    return d->sticky;
}

// ---- copies and fills

EMU_EXPORT int cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    return queue(entry, stream, copy_in(to, from, n));
}
EMU_EXPORT int cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(from, n);
    const auto found = find_stream(entry.device(), stream);
    if (found && !found->capture) memset(to, 0xff, n);
    return queue(entry, stream, copy_out(to, from, n));
}
EMU_EXPORT int cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    CHECK_RANGE(from, n);
    return queue(entry, stream, copy_within(to, from, n));
}
EMU_EXPORT int cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t n) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    return perform(entry, copy_in(to, from, n));
}
EMU_EXPORT int cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t n) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(from, n);
    return perform(entry, copy_out(to, from, n));
}
EMU_EXPORT int cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t n) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    CHECK_RANGE(from, n);
    return perform(entry, copy_within(to, from, n));
}
EMU_EXPORT int cuMemsetD8Async(DevicePointer to, unsigned char value, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    return queue(entry, stream, fill(to, value, n));
}
EMU_EXPORT int cuMemsetD16Async(DevicePointer to, unsigned short value, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, 2 * n);
    return to % 2 ? INVALID_VALUE : queue(entry, stream, fill(to, value, n));
}
EMU_EXPORT int cuMemsetD32Async(DevicePointer to, unsigned value, size_t n, void* stream) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, 4 * n);
    return to % 4 ? INVALID_VALUE : queue(entry, stream, fill(to, value, n));
}
EMU_EXPORT int cuMemsetD8_v2(DevicePointer to, unsigned char value, size_t n) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, n);
    return perform(entry, fill(to, value, n));
}
EMU_EXPORT int cuMemsetD32_v2(DevicePointer to, unsigned value, size_t n) {
    EMU_ENTER(entry, __func__);
    NOTHING_TO_DO(n);
    CHECK_RANGE(to, 4 * n);
    return to % 4 ? INVALID_VALUE : perform(entry, fill(to, value, n));
}
