// Shared memory: one window for each executing block. Variables are set apart, so that the checker sees overruns from one to
// the next.
#include <algorithm>

#include "fault.h"
#include "launch.h"

namespace emu {

constexpr uint32_t GAP = 32;  // bytes between variables

std::string Block::describe_shared(uint32_t offset) const {
    auto within = [&](const char* name, uint32_t begin, uint32_t size, const char* what, uint32_t beyond) {
        if (offset >= begin && offset < begin + size)
            return formatted("%s%s, byte %u of %u", what, name, offset - begin, size);
        if (offset >= begin + size && offset < begin + size + beyond)
            return formatted("%u bytes past the end of %s%s (%u bytes)", offset - begin - size, what, name, size);
        return std::string();
    };
    std::string text;
    for (const SharedVariable& v : variables)
        if (text.empty()) text = within(v.name, v.offset, v.size, "shared array ", GAP);
    if (text.empty() && dynamic_size) text = within("", dynamic_begin, dynamic_size, "dynamic shared memory", 1024);
    if (!text.empty()) return text;
    return formatted("shared memory that the block does not have (it has %u bytes dynamic, %u static)", dynamic_size,
                     static_size);
}

void* shared_static(const void* tag, const char* name, size_t size, size_t align, Location at) {
    Block& b = *block;
    for (const SharedVariable& v : b.variables)
        if (v.tag == tag) return b.shared + v.offset;
    const uint32_t offset = uint32_t((b.shared_top + GAP + align - 1) & ~(align - 1));
    b.static_size = uint32_t(((b.static_size + align - 1) & ~(align - 1)) + size);
    if (b.static_size > SHARED_STATIC_LIMIT)
        fail(at, "%u bytes of SHARED arrays: more than the 48 KB that a kernel may have; use SHARED_DYNAMIC", b.static_size);
    const uint32_t limit = b.launch->options.shared;
    if (b.static_size + b.dynamic_size > limit || offset + size + GAP > SHARED_WINDOW)
        fail(at, "%u bytes of shared memory: more than the %u KB that a block may have", b.static_size + b.dynamic_size, limit >> 10);
    b.shared_top = uint32_t(offset + size);
    if (b.shared_top > b.shared_dirty) {  // this part has not been poisoned yet
        memset(b.shared + b.shared_dirty, 0xff, b.shared_top - b.shared_dirty);
        b.shared_dirty = b.shared_top;
    }
    b.variables.push_back({tag, name, offset, uint32_t(size)});
    return b.shared + offset;
}

void* shared_dynamic(size_t align, Location at) {
    Block& b = *block;
    if (align == 0 || (align & (align - 1)) || align > 1024) fail(at, "SHARED_DYNAMIC: cannot align to %zu bytes", align);
    // No better aligned than it must be: who relies on more is found.
    if (!b.dynamic_placed) b.dynamic_begin = SHARED_BASE + uint32_t(align < 1024 ? std::max<size_t>(align, 16) : 0);
    b.dynamic_placed = true;
    if (b.dynamic_begin % align)
        fail(at,
             "SHARED_DYNAMIC: the kernel's dynamic shared memory is used with two alignments; give the larger one to both");
    return b.shared + b.dynamic_begin;
}

uint32_t require_shared(const void* p, uint32_t size, const char* what, Location at) {
    Block& b = *block;
    if (!b.in_shared(p)) fail(at, "%s: %p is no address in shared memory", what, p);
    const uint32_t offset = b.offset_of(p);
    if (!b.allocated(offset, size))
        fail(at, "%s: OUT OF BOUNDS: %u bytes at %s", what, size,
             b.describe_shared(b.allocated(offset, 1) ? offset + size - 1 : offset).c_str());
    return offset;
}
char* shared_at(uint32_t offset, uint32_t size, const char* what, Location at) {
    Block& b = *block;
    require_shared(b.shared + offset, size, what, at);
    return b.shared + offset;
}

uint32_t shared_address(const void* p, Location at) {
    Block& b = *block;
    if (!b.in_shared(p)) fail(at, "%p is no address in shared memory", p);
    return b.offset_of(p);
}

}  // namespace emu
