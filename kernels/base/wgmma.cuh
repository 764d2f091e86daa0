// wgmma m64nNk16 of bf16 with f32 sums (sm_90a), for N = 32, 64, 96, 128, 192 and 256. The last file with inline assembly beside `ptx.cuh`:
// PTX wants each register by name, which takes the macros below.
//
// Thread t of the warpgroup holds of d (64 x N) rows 16 (t / 32) + (t % 32) / 4 and 8 below: register 4 j + 2 h + i is column
// 8 j + 2 (t % 4) + i of row + 8 h. Accumulators must not be touched between the first product and the wait. `B_ROWS` says that the rows
// of B are contiguous in memory (K x N, "MN-major") rather than its columns, `A_COLUMNS` that A's columns are (K x M) rather than its rows.
// Tiles have rows of 128 bytes. Where those run along K, every 8 of them are `stride` bytes (of `wgmma_descriptor`) apart, a step of
// 16 along K is 32 bytes on; else every 8 along K are `stride` bytes apart, and the next 64 along M or N `leading` bytes.
#pragma once
#include "ptx.cuh"

#ifdef SM90A

#define WGMMA_PLACES_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_PLACES_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_PLACES_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define WGMMA_PLACES_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_PLACES_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define WGMMA_PLACES_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_PLACES_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define WGMMA_PLACES_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_PLACES_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define WGMMA_PLACES_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_PLACES_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_PLACES_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_PLACES_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define WGMMA_PLACES_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_PLACES_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define WGMMA_PLACES_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_PLACES_OF_32 WGMMA_PLACES_0 ", " WGMMA_PLACES_1
#define WGMMA_SUMS_OF_32 WGMMA_8(0), WGMMA_8(8)
#define WGMMA_PLACES_OF_64 WGMMA_PLACES_OF_32 ", " WGMMA_PLACES_2 ", " WGMMA_PLACES_3
#define WGMMA_SUMS_OF_64 WGMMA_SUMS_OF_32, WGMMA_8(16), WGMMA_8(24)
#define WGMMA_PLACES_OF_96 WGMMA_PLACES_OF_64 ", " WGMMA_PLACES_4 ", " WGMMA_PLACES_5
#define WGMMA_SUMS_OF_96 WGMMA_SUMS_OF_64, WGMMA_8(32), WGMMA_8(40)
#define WGMMA_PLACES_OF_128 WGMMA_PLACES_OF_96 ", " WGMMA_PLACES_6 ", " WGMMA_PLACES_7
#define WGMMA_SUMS_OF_128 WGMMA_SUMS_OF_96, WGMMA_8(48), WGMMA_8(56)
#define WGMMA_PLACES_OF_192 WGMMA_PLACES_OF_128 ", " WGMMA_PLACES_8 ", " WGMMA_PLACES_9 ", " WGMMA_PLACES_10 ", " WGMMA_PLACES_11
#define WGMMA_SUMS_OF_192 WGMMA_SUMS_OF_128, WGMMA_8(64), WGMMA_8(72), WGMMA_8(80), WGMMA_8(88)
#define WGMMA_PLACES_OF_256 WGMMA_PLACES_OF_192 ", " WGMMA_PLACES_12 ", " WGMMA_PLACES_13 ", " WGMMA_PLACES_14 ", " WGMMA_PLACES_15
#define WGMMA_SUMS_OF_256 WGMMA_SUMS_OF_192, WGMMA_8(96), WGMMA_8(104), WGMMA_8(112), WGMMA_8(120)

// The operands after the sums have the numbers N / 2 and following, which the callers below spell out.
#define WGMMA_SHARED(n, a_place, b_place, accumulate_place, columns_place, rows_place)                                   \
    if constexpr (N == n)                                                                                                \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate_place                                                \
                     ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" WGMMA_PLACES_OF_##n "}, " a_place \
                     ", " b_place ", p, 1, 1, " columns_place ", " rows_place ";\n}"                                     \
                     : WGMMA_SUMS_OF_##n                                                                                 \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(int(A_COLUMNS)), "n"(int(B_ROWS))                            \
                     : "memory");
#define WGMMA_REGISTERS(n, a0, a1, a2, a3, b_place, accumulate_place, rows_place)                                           \
    if constexpr (N == n)                                                                                                   \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate_place                                                   \
                     ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" WGMMA_PLACES_OF_##n "}, {" a0 ", " a1 \
                     ", " a2 ", " a3 "}, " b_place ", p, 1, 1, " rows_place ";\n}"                                          \
                     : WGMMA_SUMS_OF_##n                                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(int(B_ROWS))                \
                     : "memory");

// Starts d = a b (+ d where `accumulate` is not 0); `a` and `b` describe tiles in shared memory (wgmma_descriptor).
template <int N, bool B_ROWS, bool A_COLUMNS = false>
DEVICE void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate AT) {
    static_assert(N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
#ifdef __CUDACC__
    WGMMA_SHARED(32, "%16", "%17", "%18", "%19", "%20")
    WGMMA_SHARED(64, "%32", "%33", "%34", "%35", "%36")
    WGMMA_SHARED(96, "%48", "%49", "%50", "%51", "%52")
    WGMMA_SHARED(128, "%64", "%65", "%66", "%67", "%68")
    WGMMA_SHARED(192, "%96", "%97", "%98", "%99", "%100")
    WGMMA_SHARED(256, "%128", "%129", "%130", "%131", "%132")
#else
    emu::wgmma_bf16(d, N, nullptr, a, b, accumulate, A_COLUMNS, B_ROWS, at);
#endif
}
// The same with A in registers: this thread's part of 64 x 16, as mma_bf16 holds it for each warp's 16 rows.
template <int N, bool B_ROWS>
DEVICE void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate AT) {
    static_assert(N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
#ifdef __CUDACC__
    WGMMA_REGISTERS(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
    WGMMA_REGISTERS(96, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
    WGMMA_REGISTERS(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
    WGMMA_REGISTERS(192, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
    WGMMA_REGISTERS(256, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
#else
    emu::wgmma_bf16(d, N, a, 0, b, accumulate, false, B_ROWS, at);
#endif
}

#endif  // SM90A
