// cuTensorMapEncodeTiled, with the rules of the driver's documentation.
#include "driver.h"
#include "tensor_map.h"

using namespace emu;

static int element_bytes(int type) {  // CUtensorMapDataType
    static const int bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    return type >= 0 && type < int(std::size(bytes)) ? bytes[type] : 0;
}

EMU_EXPORT int cuTensorMapEncodeTiled(void* out, int type, unsigned rank, void* base, const uint64_t* size,
                                      const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                      int interleave, int swizzle, int, int fill) {
    const int element = element_bytes(type);
    if (!out || uintptr_t(out) % 64 || !element || rank < 1 || rank > 5 || !base || uintptr_t(base) % 16 || !size || !box)
        return INVALID_VALUE;
    if (interleave || swizzle < 0 || swizzle > 3) return interleave ? NOT_SUPPORTED : INVALID_VALUE;
    TensorMapFields map{};
    map.magic = TENSOR_MAP_MAGIC;
    map.base = static_cast<char*>(base);
    map.element = uint16_t(element), map.rank = uint16_t(rank), map.swizzle = uint16_t(swizzle),
    map.nan_fill = uint16_t(fill);
    for (unsigned i = 0; i < rank; i++) {
        if (!size[i] || size[i] > 1ull << 32 || !box[i] || box[i] > 256) return INVALID_VALUE;
        if (element_strides && element_strides[i] != 1) return NOT_SUPPORTED;
        map.size[i] = size[i], map.box[i] = box[i];
        if (!i) continue;
        if (strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40) return INVALID_VALUE;
        map.stride[i] = uint32_t(strides[i - 1] / 16);
    }
    const uint32_t row = box[0] * uint32_t(element);
    if (row % 16 || (swizzle && row > 16u << swizzle)) return INVALID_VALUE;
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return SUCCESS;
}
