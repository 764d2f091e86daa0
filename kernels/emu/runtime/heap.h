// Device memory: one window of addresses for all emulated devices, so that "is this a device pointer" is one comparison.
// Buffers end at a page that cannot be accessed, freed ones cannot be accessed at all, and freed addresses are reused as
// late as possible.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace emu {

constexpr size_t HEAP_BYTES = 32ull << 30;
constexpr size_t HEAP_PAGE = 4096;

extern char* heap_base;  // null until the first allocation
inline bool heap_contains(const void* p) {
    return size_t(static_cast<const char*>(p) - heap_base) < HEAP_BYTES && heap_base;
}
inline size_t heap_offset(const void* p) { return size_t(static_cast<const char*>(p) - heap_base); }

// Null when there is no room. `shadowed` buffers are followed by the checker.
char* heap_allocate(int device, size_t size, bool shadowed);
// The size that was allocated here and is still live, or 0.
size_t heap_size(int device, const void* p);
void heap_free(int device, void* p);
void heap_free_all(int device);
// The live buffer that has this address within it: its beginning and size. Returns false where there is none.
bool heap_find(const void* p, char** begin, size_t* size, int* device);
// What lies at an address, for messages: the nearest buffer and the distance.
std::string heap_describe(const void* p);

// Shadow of checked devices: per byte, whether it is part of a buffer and initialised; per two bytes, who wrote and read
// last.
enum : uint8_t { OUTSIDE = 0, UNINITIALISED = 1, INITIALISED = 2 };
extern uint8_t* heap_state;
struct LastAccess {
    uint64_t write, read;
};
extern LastAccess* heap_accesses;
extern uint16_t* heap_owner;  // per page: the device's ordinal + 1
// Forgets all accesses to this device's buffers.
void heap_forget_accesses(int device);

}  // namespace emu
