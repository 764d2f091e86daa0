// What the emulated GPU keeps in the 128 opaque bytes of a tensor map.
#pragma once
#include <cstdint>

namespace emu {

struct TensorMapFields {
    uint64_t magic;
    char* base;
    uint16_t element, rank, swizzle,
        nan_fill;  // bytes; dimensions; log2 of the swizzle's width over 16 bytes; fill of what is outside
    uint32_t box[5];
    uint64_t size[5];
    uint32_t stride[5];  // in units of 16 bytes; [0] unused
};
static_assert(sizeof(TensorMapFields) <= 128);
constexpr uint64_t TENSOR_MAP_MAGIC = 0x70616d20736e6574;

// The 128-, 64- or 32-byte swizzle (mode 3, 2, 1) of an address within shared memory.
inline uint32_t swizzled(uint32_t address, int mode) {
    return mode ? address ^ (((address >> 7) & ((1u << mode) - 1)) << 4) : address;
}

}  // namespace emu
