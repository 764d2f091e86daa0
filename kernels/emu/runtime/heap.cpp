// Device memory: allocation within the window, guard pages, shadows.
#include "heap.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

#include "fault.h"

namespace emu {

char* heap_base;
uint8_t* heap_state;
LastAccess* heap_accesses;
uint16_t* heap_owner;

namespace {

constexpr size_t ALIGNMENT = 256;          // as cuMemAlloc's
constexpr size_t POISON_LIMIT = 16 << 20;  // larger buffers are not filled with NaN: their pages stay untouched until used

struct Buffer {
    char* begin;
    size_t size;
    char* pages;
    size_t page_bytes;
    int device;
    bool live, shadowed;
};
std::mutex mutex;
std::map<char*, Buffer>& buffers =
    *new std::map<char*, Buffer>;  // by first byte; freed ones stay until their addresses are reused
std::map<char*, size_t>& free_pages = *new std::map<char*, size_t>;  // what can be reused once the window has been used up
size_t used;                                                         // of the window

char* reserve(size_t bytes, int protection) {
    void* p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}
bool reserve_window() {
    if (heap_base) return true;
    const int data = PROT_READ | PROT_WRITE;
    heap_state = reinterpret_cast<uint8_t*>(reserve(HEAP_BYTES, data));
    heap_accesses = reinterpret_cast<LastAccess*>(reserve(HEAP_BYTES / 2 * sizeof(LastAccess), data));
    heap_owner = reinterpret_cast<uint16_t*>(reserve(HEAP_BYTES / HEAP_PAGE * sizeof(uint16_t), data));
    if (!heap_state || !heap_accesses || !heap_owner) return false;
    heap_base = reserve(HEAP_BYTES, PROT_NONE);
    return heap_base;
}

// A range of pages, fresh while the window lasts, else the lowest freed one that is large enough.
char* take_pages(size_t bytes) {
    if (used + bytes <= HEAP_BYTES) {
        char* p = heap_base + used;
        used += bytes;
        return p;
    }
    for (auto& [begin, size] : free_pages) {
        if (size < bytes) continue;
        char* p = begin;
        const size_t rest = size - bytes;
        free_pages.erase(begin);
        if (rest) free_pages[p + bytes] = rest;
        buffers.erase(buffers.lower_bound(p), buffers.lower_bound(p + bytes));
        return p;
    }
    return nullptr;
}
void give_pages(char* p, size_t bytes) {
    auto next = free_pages.lower_bound(p);
    if (next != free_pages.end() && p + bytes == next->first) {
        bytes += next->second;
        next = free_pages.erase(next);
    }
    if (next != free_pages.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second == p) {
            before->second += bytes;
            return;
        }
    }
    free_pages[p] = bytes;
}

const Buffer* at_or_before(const char* p) {
    auto next = buffers.upper_bound(const_cast<char*>(p));
    return next == buffers.begin() ? nullptr : &std::prev(next)->second;
}

}  // namespace

char* heap_allocate(int device, size_t size, bool shadowed) {
    std::lock_guard<std::mutex> guard(mutex);
    if (!reserve_window()) return nullptr;
    const size_t rounded = ((size ? size : 1) + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    const size_t page_bytes = (rounded + HEAP_PAGE - 1) & ~(HEAP_PAGE - 1);
    char* guard_page = take_pages(page_bytes + HEAP_PAGE);  // the page before; the next buffer's is the one behind
    if (!guard_page) return nullptr;
    char* pages = guard_page + HEAP_PAGE;
    if (mprotect(pages, page_bytes, PROT_READ | PROT_WRITE)) return nullptr;
    char* begin = pages + page_bytes - rounded;
    if (rounded <= POISON_LIMIT) memset(begin, 0xff, rounded);
    for (size_t i = heap_offset(pages) / HEAP_PAGE; i < heap_offset(pages + page_bytes) / HEAP_PAGE; i++)
        heap_owner[i] = uint16_t(device + 1);
    if (shadowed) memset(heap_state + heap_offset(begin), UNINITIALISED, size);
    buffers[begin] = {begin, size, pages, page_bytes, device, true, shadowed};
    return begin;
}

size_t heap_size(int device, const void* p) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = buffers.find(static_cast<char*>(const_cast<void*>(p)));
    const bool live = found != buffers.end() && found->second.live && found->second.device == device;
    return live ? found->second.size : 0;
}

static void clear_accesses(const Buffer& b, size_t most_by_hand) {
    LastAccess* accesses = heap_accesses + heap_offset(b.pages) / 2;
    const size_t bytes = b.page_bytes / 2 * sizeof(LastAccess);
    if (b.page_bytes > most_by_hand) madvise(accesses, bytes, MADV_DONTNEED);
    else memset(static_cast<void*>(accesses), 0, bytes);
}

static void free_buffer(Buffer& b) {
    b.live = false;
    // Untouched pages read as zero, which is OUTSIDE; giving them back keeps a long test run small.
    static_assert(OUTSIDE == 0);
    if (b.shadowed) {
        madvise(heap_state + heap_offset(b.pages), b.page_bytes, MADV_DONTNEED);
        clear_accesses(b, 0);
    }
    mprotect(b.pages, b.page_bytes, PROT_NONE);
    madvise(b.pages, b.page_bytes, MADV_DONTNEED);
    give_pages(b.pages - HEAP_PAGE, b.page_bytes + HEAP_PAGE);
}
void heap_free(int device, void* p) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = buffers.find(static_cast<char*>(p));
    if (found == buffers.end() || !found->second.live || found->second.device != device) return;
    free_buffer(found->second);
}
void heap_free_all(int device) {
    std::lock_guard<std::mutex> guard(mutex);
    for (auto& [begin, b] : buffers)
        if (b.live && b.device == device) free_buffer(b);
}

void heap_forget_accesses(int device) {
    std::lock_guard<std::mutex> guard(mutex);
    for (auto& [begin, b] : buffers)
        if (b.live && b.device == device && b.shadowed) clear_accesses(b, 256 << 10);  // between launches: cheaper than faults
}

bool heap_find(const void* p, char** begin, size_t* size, int* device) {
    std::lock_guard<std::mutex> guard(mutex);
    const char* a = static_cast<const char*>(p);
    const Buffer* b = at_or_before(a);
    if (!b || !b->live || a >= b->begin + b->size) return false;
    *begin = b->begin, *size = b->size, *device = b->device;
    return true;
}

std::string heap_describe(const void* p) {
    std::lock_guard<std::mutex> guard(mutex);
    char* a = static_cast<char*>(const_cast<void*>(p));
    auto next = buffers.upper_bound(a);
    const Buffer* before = at_or_before(a);
    if (before && !before->live && a < before->pages + before->page_bytes)
        return formatted("use after free of a device buffer of %zu bytes", before->size);
    if (before && before->live && a < before->begin + before->size)
        return formatted("byte %zd of a device buffer of %zu bytes", a - before->begin, before->size);
    if (before && (next == buffers.end() || a - (before->begin + before->size) <= next->first - a))
        return formatted("%zd bytes past the end of a%s device buffer of %zu bytes", a - (before->begin + before->size),
                         before->live ? "" : " freed", before->size);
    if (next != buffers.end())
        return formatted("%zd bytes before a device buffer of %zu bytes", next->first - a, next->second.size);
    return "device memory without any buffer";
}

}  // namespace emu
