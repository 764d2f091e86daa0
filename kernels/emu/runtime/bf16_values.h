// bf16 bits as floats, in the runtime.
#pragma once
#include <bit>
#include <cstdint>

namespace emu {

inline float low_half(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
inline float high_half(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }
inline float bf16_value(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

// Where register `r` of lane `l` lies in a 16x16 operand tile (pairs of columns), as mma.m16n8k16 and wgmma hold A.
inline int fragment_row(int lane, int r) { return lane / 4 + 8 * (r & 1); }
inline int fragment_column(int lane, int r) { return 2 * (lane % 4) + 8 * (r >> 1); }

}  // namespace emu
