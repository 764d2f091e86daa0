// The driver: devices, their contexts, memory, streams, events, graphs, modules. Names and numbers are those of CUDA's
// driver API.
//
// Streams are lazy: an operation runs when somebody waits for it, and no earlier, so that whatever was not waited for is
// seen to be missing. Everything of one device happens under its lock; different devices run in parallel on their callers'
// threads.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "costs.h"
#include "launch.h"

namespace emu {

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
};

constexpr int MAX_DEVICES = 32768;
typedef uint64_t DevicePointer;

struct Device;
using Operation = std::function<Result(Device&)>;

// A recorded graph. A node runs after those that it depends on.
struct GraphNode {
    Operation run;
    std::vector<uint32_t> after;
};
struct Graph {
    std::vector<GraphNode> nodes;
};

struct Stream;
// A recording in progress, on one stream or on several that events have joined to it.
struct Capture {
    Graph graph;
    Stream* origin;
    int mode;  // 0 global, 1 of this thread, 2 relaxed
    bool invalidated = false;
};

struct Stream {
    struct Queued {
        Operation run;
        std::vector<std::pair<std::shared_ptr<Stream>, uint64_t>> after;
    };
    std::deque<Queued> queue;
    uint64_t issued = 0, done = 0;
    bool blocking = true;  // waits for the default stream, and it for this one
    std::shared_ptr<Capture> capture;
    std::vector<uint32_t> capture_last;  // the nodes that the next one depends on
};

struct Event {
    bool timed = true;
    std::shared_ptr<Stream> stream;  // null: not recorded
    uint64_t sequence = 0;
    std::shared_ptr<double> time = std::make_shared<double>(0);  // seconds, written when the record is reached
    std::shared_ptr<Capture> capture;                            // recorded into this
    std::vector<uint32_t> capture_nodes;
};

struct Function {
    Device* device;
    const Kernel* kernel;
    uint32_t max_dynamic_shared = 48 << 10;
};
struct Module {
    std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Settings {
    bool checked = false;
    uint64_t seed = 0;
    bool strict_wgmma = true;
    int capability_major = 9, capability_minor = 0;
    uint64_t memory = 4ull << 30;
    uint64_t taken = 0;  // of it, by other processes
    int multiprocessors = 4;
    int driver_version = 13000;
    uint64_t steps = 0;
    double seconds = 120;
    bool costs = false;
    std::string fail_call;
    uint64_t fail_nth = 0;
    int fail_code = 0;
};

struct Statistics {
    uint64_t launches, switches, accesses, allocated, peak, allocations, leaked;
};

struct Device {
    int ordinal;
    std::recursive_mutex mutex;
    Settings settings;
    int retained = 0;  // of the primary context
    Result sticky = SUCCESS;
    std::string error_text;
    uint64_t calls_to_fail = 0;  // calls of the function that shall fail, so far
    std::shared_ptr<Stream> default_stream = std::make_shared<Stream>();
    std::vector<std::shared_ptr<Stream>> streams;  // the default stream excluded; destroyed ones until they are done
    std::set<Stream*> live_streams;
    std::map<Event*, std::unique_ptr<Event>> events;
    std::map<Graph*, std::unique_ptr<Graph>> graphs, executables;
    std::map<Module*, std::unique_ptr<Module>> modules;
    std::set<Function*> functions;
    std::map<void*, size_t> host_memory;
    Statistics statistics{};
    uint32_t launch_id = 0;
    std::unique_ptr<Costs> costs;  // null: not counted
    std::string costs_text;        // what `emu_costs` has returned

    explicit Device(int ordinal) : ordinal(ordinal) {}
};

// The device of this ordinal, made when first asked for.
Device& device_at(int ordinal);
int device_count();
// Those that somebody has asked for.
std::vector<Device*> devices_in_use();
// Whose context is current on the calling thread; null if none.
Device* current_device();
void set_current_device(Device* device);
bool driver_initialised();

// Bytes of shared memory that a block may have if its function asks for them.
int shared_opt_in(const Settings& s);

// Begins to count costs, where the device's settings or the environment ask for it (driver_costs.cpp).
void count_costs(Device& d);

// Marks the device as failed: every later call returns this error.
void set_sticky(Device& d, Result error, std::string text);

// The beginning of a driver function: the current device, locked; or an error to return.
class Entry {
  public:
    explicit Entry(const char* function) : Entry(function, current_device(), true) {}
    // For functions that take a device; `context` says whether one must be current.
    Entry(const char* function, Device* device, bool context);
    Result error = SUCCESS;
    Device& device() const { return *device_; }

  private:
    Device* device_ = nullptr;
    std::unique_lock<std::recursive_mutex> lock_;
};
#define EMU_ENTER(entry, ...) \
    Entry entry(__VA_ARGS__); \
    if (entry.error) return entry.error

// ---- streams (driver_stream.cpp)

// The stream of a handle (null: the default one); null if there is none.
std::shared_ptr<Stream> find_stream(Device& d, void* handle);
// Adds an operation, to the stream or to the graph that it records.
Result enqueue(Device& d, const std::shared_ptr<Stream>& stream, Operation operation);
// Runs a stream's operations up to this one.
Result run_until(Device& d, Stream& stream, uint64_t sequence);
Result run_everything(Device& d);
// For functions that must not be called while something is being captured: an error, which also invalidates the captures.
Result refuse_during_capture(Device& d);

// ---- memory (driver_memory.cpp)

// Frees everything, as the end of a context does, and counts it as leaked.
void free_everything(Device& d);
// Whether [p, p + size) lies within one live buffer of this device.
bool valid_range(Device& d, DevicePointer p, size_t size);

}  // namespace emu

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))
