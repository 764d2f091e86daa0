// Capture of streams into graphs, and graphs.
#include <algorithm>

#include "driver.h"

using namespace emu;

EMU_EXPORT int cuStreamBeginCapture_v2(void* handle, int mode) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto stream = find_stream(d, handle);
    if (!stream) return INVALID_HANDLE;
    if (stream == d.default_stream) return CAPTURE_UNSUPPORTED;
    if (mode < 0 || mode > 2) return INVALID_VALUE;
    if (stream->capture) return ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>(Capture{{}, stream.get(), mode, false});
    stream->capture_last.clear();
    return SUCCESS;
}

// Whether every node leads to one of `last`.
static bool joined(const Graph& graph, const std::vector<uint32_t>& last) {
    std::vector<bool> reached(graph.nodes.size());
    std::vector<uint32_t> open = last;
    while (!open.empty()) {
        const uint32_t n = open.back();
        open.pop_back();
        if (reached[n]) continue;
        reached[n] = true;
        open.insert(open.end(), graph.nodes[n].after.begin(), graph.nodes[n].after.end());
    }
    return std::find(reached.begin(), reached.end(), false) == reached.end();
}

EMU_EXPORT int cuStreamEndCapture(void* handle, void** graph_handle) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto stream = find_stream(d, handle);
    if (!stream) return INVALID_HANDLE;
    *graph_handle = nullptr;
    if (!stream->capture) return ILLEGAL_STATE;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream.get()) {
        capture->invalidated = true;
        return CAPTURE_UNMATCHED;
    }
    const std::vector<uint32_t> last = stream->capture_last;
    for (auto& s : d.streams) {
        if (s->capture != capture) continue;
        s->capture = nullptr;
        s->capture_last.clear();
    }
    if (capture->invalidated) return CAPTURE_INVALIDATED;
    if (!joined(capture->graph, last)) return CAPTURE_UNJOINED;
    auto graph = std::make_unique<Graph>(std::move(capture->graph));
    *graph_handle = graph.get();
    d.graphs[graph.get()] = std::move(graph);
    return SUCCESS;
}
EMU_EXPORT int cuStreamIsCapturing(void* handle, int* status) {
    EMU_ENTER(entry, __func__);
    auto stream = find_stream(entry.device(), handle);
    if (!stream) return INVALID_HANDLE;
    *status = !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
    return SUCCESS;
}

EMU_EXPORT int cuGraphInstantiateWithFlags(void** handle, void* graph_handle, unsigned long long) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto found = d.graphs.find(static_cast<Graph*>(graph_handle));
    if (found == d.graphs.end()) return INVALID_VALUE;
    auto executable = std::make_unique<Graph>(*found->second);
    *handle = executable.get();
    d.executables[executable.get()] = std::move(executable);
    return SUCCESS;
}
EMU_EXPORT int cuGraphGetNodes(void* graph_handle, void** nodes, size_t* count) {
    EMU_ENTER(entry, __func__);
    auto found = entry.device().graphs.find(static_cast<Graph*>(graph_handle));
    if (found == entry.device().graphs.end()) return INVALID_VALUE;
    if (nodes) return NOT_SUPPORTED;
    *count = found->second->nodes.size();
    return SUCCESS;
}

// Runs the nodes in an order that the dependencies allow: as recorded; with an odd seed, the node recorded last first.
static Result run_graph(Device& d, const Graph& graph) {
    const size_t count = graph.nodes.size();
    std::vector<uint32_t> missing(count);
    std::vector<bool> done(count);
    for (size_t i = 0; i < count; i++) missing[i] = uint32_t(graph.nodes[i].after.size());
    const bool backwards = d.settings.seed % 2;
    for (size_t step = 0; step < count; step++) {
        size_t next = count;
        for (size_t k = 0; k < count && next == count; k++) {
            const size_t i = backwards ? count - 1 - k : k;
            if (!done[i] && !missing[i]) next = i;
        }
        if (Result r = graph.nodes[next].run(d)) return r;
        done[next] = true;
        for (size_t i = 0; i < count; i++)
            for (uint32_t n : graph.nodes[i].after) missing[i] -= n == next;
    }
    return SUCCESS;
}

EMU_EXPORT int cuGraphLaunch(void* handle, void* stream_handle) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    auto found = d.executables.find(static_cast<Graph*>(handle));
    auto stream = find_stream(d, stream_handle);
    if (found == d.executables.end() || !stream) return INVALID_HANDLE;
    if (stream->capture) return NOT_SUPPORTED;  // a graph within a graph
    return enqueue(d, stream, [graph = *found->second](Device& d) { return run_graph(d, graph); });
}
EMU_EXPORT int cuGraphUpload(void* handle, void* stream_handle) {
    EMU_ENTER(entry, __func__);
    Device& d = entry.device();
    return d.executables.count(static_cast<Graph*>(handle)) && find_stream(d, stream_handle) ? SUCCESS : INVALID_HANDLE;
}
EMU_EXPORT int cuGraphExecDestroy(void* handle) {
    EMU_ENTER(entry, __func__);
    return entry.device().executables.erase(static_cast<Graph*>(handle)) ? SUCCESS : INVALID_HANDLE;
}
EMU_EXPORT int cuGraphDestroy(void* handle) {
    EMU_ENTER(entry, __func__);
    return entry.device().graphs.erase(static_cast<Graph*>(handle)) ? SUCCESS : INVALID_HANDLE;
}
