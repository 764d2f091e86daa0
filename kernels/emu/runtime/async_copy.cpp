// cp.async: copies from global to shared memory that each thread groups and waits for. The data arrive as late as they may:
// at the wait, with NaN in their place until then; or, with some seeds, as early as they may.
#include "costs.h"
#include "fault.h"
#include "global_shadow.h"

namespace emu {

static void perform(const CopyAsync& c) {
    memcpy(c.to, c.from, c.bytes_read);
    memset(static_cast<char*>(c.to) + c.bytes_read, 0, c.bytes - c.bytes_read);
}

void cp_async(void* to, const void* from, uint32_t bytes, uint32_t bytes_read, Location at) {
    Block& b = *block;
    Lane& l = *current();
    const uint32_t offset = require_shared(to, bytes, "cp.async", at);
    if (bytes != 4 && bytes != 16) fail(at, "cp.async: emulated for copies of 4 or 16 bytes, not %u (base/ptx.cuh)", bytes);
    if (offset % bytes)
        fail(at, "MISALIGNED cp.async: %s is not aligned to %u bytes", b.describe_shared(offset).c_str(), bytes);
    if (uintptr_t(from) % bytes)
        fail(at, "MISALIGNED cp.async: the global address %p is not aligned to %u bytes", from, bytes);
    if (bytes_read > bytes) fail(at, "cp.async: reads %u bytes for %u", bytes_read, bytes);
    if (b.checked) {
        if (bytes_read) check_global(l, from, bytes_read, Access::read, &at, nullptr);
        check_shared_async(l, to, bytes, Access::write, b.clocks.copies_of(l.index), l.copies.committed + 1, Proxy::generic,
                           at);
        if (b.costs) b.costs->copy(l, offset, uintptr_t(from), bytes, bytes_read, __builtin_return_address(0));
    }
    const CopyAsync copy{to, from, bytes, bytes_read};
    if (b.early) perform(copy);
    else memset(to, 0xff, bytes);
    l.copies.start(copy);
    l.at = at;
}

void cp_async_commit(Location) { current()->copies.commit(); }

void cp_async_wait(int groups_left, Location) {
    Lane& l = *current();
    const bool early = block->early;
    if (groups_left < 0) {
        l.copies.commit();
        groups_left = 0;
    }
    l.copies.complete(groups_left, [early](const CopyAsync& c) {
        if (!early) perform(c);
    });
}

}  // namespace emu
