// What the memory accesses of kernels would cost a real GPU: wavefronts of shared memory and sectors of device memory, for
// each instruction of a warp. Off unless the settings ask for it.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace emu {

struct Kernel;
struct Lane;
struct Warp;

enum class CostKind : uint8_t { shared_load, shared_store, ldmatrix, stmatrix, cp_async, global_load, global_store };

struct CostCounts {
    uint64_t instructions = 0, lanes = 0;
    uint64_t wavefronts = 0, wavefronts_ideal = 0;  // of shared memory
    uint64_t sectors = 0, sectors_ideal = 0;        // of device memory

    void add(const CostCounts& other);
};

// An instruction of a kernel's code that accesses memory. A wide access is several: `part` tells them apart.
struct CostSite {
    const void* code;
    uint32_t part;
    uint8_t width;
    CostKind kind;
    bool operator==(const CostSite&) const = default;
};
struct CostSiteHash {
    size_t operator()(const CostSite& s) const {
        return (size_t(s.code) + s.part * 31 + s.width * 7 + size_t(s.kind)) * 0x9e3779b97f4a7c15ull >> 16;
    }
};

// One instruction as a warp executes it: the address of each lane that takes part. Addresses in shared memory are offsets.
struct WarpAccess {
    uint32_t lanes = 0, reading = 0;  // masks; `reading`: those whose cp.async reads device memory
    uint64_t to[32], from[32];        // `from`: where cp.async reads
};
CostCounts cost_of(const CostSite& site, const WarpAccess& access);

struct Cost {
    std::string kernel, place;
    CostKind kind;
    uint32_t width;
    CostCounts counts;
};

// What one device's launches cost. Lanes run one after the other, so instructions of warps are put together: the k-th
// execution of an instruction by each lane since all lanes of the warp last met is one instruction of the warp.
class Costs {
  public:
    void begin_launch(const Kernel* kernel);
    // A lane's access of `size` bytes: at an offset in shared memory, or an address in device memory.
    void access(const Lane& lane, CostKind kind, uint64_t address, uint64_t size, const void* code);
    void copy(const Lane& lane, uint64_t to, uint64_t from, uint32_t bytes, bool reads, const void* code);
    // The rows of 16 bytes that ldmatrix or stmatrix takes.
    void matrix(CostKind kind, const uint32_t* rows, uint32_t count, const void* code);
    // All lanes of this warp have met.
    void meet(const Warp& warp);
    void end_block();

    void add(const Costs& other);
    // By source line, in the order of kernels' names.
    std::vector<Cost> lines() const;

  private:
    struct Pending {
        uint32_t executions[32] = {};
        std::vector<WarpAccess> accesses;
    };
    struct PendingWarp {
        std::unordered_map<CostSite, Pending, CostSiteHash> sites;
        std::vector<std::pair<const CostSite, Pending>*> touched;
    };
    using Totals = std::unordered_map<CostSite, CostCounts, CostSiteHash>;

    WarpAccess& next(const Lane& lane, const CostSite& site);
    void finish(PendingWarp& warp);

    std::vector<PendingWarp> warps_;
    std::unordered_map<const Kernel*, Totals> totals_;
    Totals* current_ = nullptr;  // the running launch's
};

// One line each, fields separated by tabs, with a line of names.
std::string costs_tsv(const std::vector<Cost>& costs);
// Two tables for people, most waste first.
std::string costs_table(const std::vector<Cost>& costs);

}  // namespace emu
