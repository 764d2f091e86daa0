// The only place with inline assembly (beside `wgmma.cuh`, whose macros write out long lists of registers). Each instruction is written
// twice, side by side: its PTX for the device, and the service
// of the emulated GPU that does the same on a host. `kernels/conformance.cu` has one kernel for each of them, so that a real
// GPU can confirm that the two agree.
//
// Portable instructions (sm_80) come first. Those of sm_90a stand behind `SM90A`, which files named `*_sm90.cu` define before
// they include this one; build.rs compiles such files for sm_90a alone.
#pragma once
#include "kernel.cuh"

// PTX(..) is what the device does, HOST(..) what the emulated GPU does. AT (after other parameters) and AT0 (alone) carry the
// caller's file and line on the host, for messages and for checks that a warp arrives together.
#ifdef __CUDACC__
#define PTX(...) __VA_ARGS__;
#define HOST(...)
#define AT
#define AT0
#else
#define PTX(...)
#define HOST(...) __VA_ARGS__;
#define AT , emu::Location at = std::source_location::current()
#define AT0 emu::Location at = std::source_location::current()
#endif

// The 32-bit address within shared memory that PTX wants.
DEVICE uint32_t shared_address(const void* p AT) {
    PTX(return uint32_t(__cvta_generic_to_shared(p)))
    HOST(return emu::shared_address(p, at))
}

// ---------------------------------------------------------------- arithmetic

// 2^x within 2 ulp; results below the normal range are 0.
DEVICE float exp2_approx(float x) {
    PTX(float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y)
    HOST(return emu::flush(exp2f(emu::flush(x))))
}
// 1 / x within 1 ulp; below the normal range both x and the result are 0.
DEVICE float reciprocal_approx(float x) {
    PTX(float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y)
    HOST(return emu::flush(1.f / emu::flush(x)))
}
// sqrt(x) within 1 ulp or so; an x below the normal range is 0.
DEVICE float sqrt_approx(float x) {
    PTX(float y; asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y)
    HOST(return sqrtf(emu::flush(x)))
}

// ---------------------------------------------------------------- asynchronous copies to shared memory (sm_80)

// Starts copying 16 bytes; where `valid` is false nothing is read and zeros are written.
DEVICE void cp_async16(void* to, const void* from, bool valid AT) {
    PTX(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
                     : "memory"))
    HOST(emu::cp_async(to, from, 16, valid ? 16 : 0, at))
}
// Starts copying 4 bytes, for rows that are not aligned to 16.
DEVICE void cp_async4(void* to, const void* from, bool valid AT) {
    PTX(asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0)
                     : "memory"))
    HOST(emu::cp_async(to, from, 4, valid ? 4 : 0, at))
}
// Closes the group of copies that this thread started since the last call.
DEVICE void cp_async_commit(AT0) {
    PTX(asm volatile("cp.async.commit_group;" ::: "memory"))
    HOST(emu::cp_async_commit(at))
}
// Waits until at most N of this thread's groups are still under way. Other threads' copies need a barrier as well.
template <int N> DEVICE void cp_async_wait(AT0) {
    PTX(asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"))
    HOST(emu::cp_async_wait(N, at))
}

// ---------------------------------------------------------------- matrix fragments and products (sm_80)

// Four 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8. Register j of lane l receives
// elements (l / 4, 2 * (l % 4)) and the next one of matrix j.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row AT) {
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory"))
    HOST(emu::ldmatrix(r, 4, false, row, at))
}
// The same, each matrix transposed.
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row AT) {
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory"))
    HOST(emu::ldmatrix(r, 4, true, row, at))
}
// d[16x8] += a[16x16] b[16x8], bf16 operands, f32 sums. Lane l holds of d: (l/4, 2(l%4)), the next column, and both 8 rows below;
// of a: the same places as pairs of columns (r0), 8 rows below (r1), and both 8 columns on (r2, r3);
// of b: rows 2(l%4) and the next of column l/4 (b0), and 8 rows below (b1).
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 AT) {
    PTX(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)))
    HOST(const uint32_t b[2] = {b0, b1}; emu::mma_m16n8k16_bf16(d, a, b, at))
}

// ---------------------------------------------------------------- barriers and memory order

// Barrier `id` (1 to 15; 0 is __syncthreads) among `threads` threads, whole warps.
DEVICE void named_barrier_sync(int id, int threads AT) {
    PTX(asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"))
    HOST(emu::barrier_sync(id, threads, at))
}
// Arrives at barrier `id` without waiting.
DEVICE void named_barrier_arrive(int id, int threads AT) {
    PTX(asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"))
    HOST(emu::barrier_arrive(id, threads, at))
}
// Adds to a counter in global memory: what this thread wrote before is seen by whoever reads the new count this way.
DEVICE uint32_t atomic_add_acq_rel(uint32_t* counter, uint32_t n AT) {
    PTX(uint32_t old; asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(counter), "r"(n) : "memory"); return old)
    HOST(return emu::atomic_add_acq_rel(counter, n, at))
}

#ifdef SM90A

// ---------------------------------------------------------------- mbarriers (sm_90a)

DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals AT) {
    PTX(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory"))
    HOST(emu::mbarrier_init(barrier, arrivals, at))
}
// Makes initialised barriers visible to the asynchronous proxy; a block barrier must follow.
DEVICE void fence_mbarrier_init(AT0) {
    PTX(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"))
    HOST(emu::fence_mbarrier_init(at))
}
// Orders this thread's earlier accesses to shared memory before later ones of the asynchronous proxy (TMA, wgmma).
DEVICE void fence_proxy_async(AT0) {
    PTX(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"))
    HOST(emu::fence_proxy_async(at))
}
DEVICE void mbarrier_arrive(uint64_t* barrier AT) {
    PTX(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory"))
    HOST(emu::mbarrier_arrive(barrier, at))
}
// Arrives and announces so many bytes that TMA will bring before the phase can end.
DEVICE void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes AT) {
    PTX(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory"))
    HOST(emu::mbarrier_arrive_expect_tx(barrier, bytes, at))
}
// Waits for the end of the phase of this parity: 0 for the first phase, then 1, 0, ...
DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity AT) {
    PTX(asm volatile("{\n.reg .pred done;\n"
                     "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again;\n}" ::"r"(shared_address(barrier)), "r"(parity) : "memory"))
    HOST(emu::mbarrier_wait(barrier, parity, at))
}

// ---------------------------------------------------------------- TMA (sm_90a)

// One thread starts copying a box whose first element is (x, y): x counts along the contiguous dimension.
DEVICE void tma_load_2d(void* to, const TensorMap* map, uint64_t* barrier, int x, int y AT) {
    PTX(asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                         shared_address(to)), "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
                     : "memory"))
    HOST(const int at_box[2] = {x, y}; emu::tma_load(to, map, barrier, at_box, 2, at))
}
// One thread starts writing a box from shared memory; parts beyond the tensor are not written.
DEVICE void tma_store_2d(const TensorMap* map, const void* from, int x, int y AT) {
    PTX(asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared_address(from)),
                     "r"(x), "r"(y)
                     : "memory"))
    HOST(const int at_box[2] = {x, y}; emu::tma_store(map, from, at_box, 2, at))
}
DEVICE void tma_store_commit(AT0) {
    PTX(asm volatile("cp.async.bulk.commit_group;" ::: "memory"))
    HOST(emu::tma_store_commit(at))
}
// Waits until at most N of this thread's groups of stores still read shared memory.
template <int N> DEVICE void tma_store_wait_read(AT0) {
    PTX(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"))
    HOST(emu::tma_store_wait(N, true, at))
}
// Waits until at most N of this thread's groups of stores are incomplete.
template <int N> DEVICE void tma_store_wait(AT0) {
    PTX(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"))
    HOST(emu::tma_store_wait(N, false, at))
}
// Brings a tensor map into the cache of descriptors.
DEVICE void prefetch_tensor_map(const TensorMap* map) {
    PTX(asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"))
    HOST((void)map)
}

// ---------------------------------------------------------------- warpgroups (sm_90a)

// Registers a thread of this warpgroup may use from here on.
template <int N> DEVICE void registers_increase() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256);
    PTX(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)))
}
template <int N> DEVICE void registers_decrease() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256);
    PTX(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)))
}
DEVICE void wgmma_fence(AT0) {
    PTX(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"))
    HOST(emu::wgmma_fence(at))
}
DEVICE void wgmma_commit(AT0) {
    PTX(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"))
    HOST(emu::wgmma_commit(at))
}
template <int N> DEVICE void wgmma_wait(AT0) {
    PTX(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"))
    HOST(emu::wgmma_wait(N, at))
}
// Describes an operand tile in shared memory, 128-byte swizzle; offsets in bytes.
DEVICE uint64_t wgmma_descriptor(const void* tile, uint32_t leading, uint32_t stride AT) {
    const uint32_t address = PTX(shared_address(tile)) HOST(emu::shared_address(tile, at))
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | 1ull << 62;
}

#endif  // SM90A
