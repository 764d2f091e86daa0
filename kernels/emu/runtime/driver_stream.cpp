// Streams and events. An operation runs only when somebody waits for it.
#include <algorithm>
#include <chrono>

#include "driver.h"

namespace emu {

std::shared_ptr<Stream> find_stream(Device& d, void* handle) {
    if (!handle || handle == reinterpret_cast<void*>(1) || handle == reinterpret_cast<void*>(2)) return d.default_stream;
    for (const auto& s : d.streams)
        if (s.get() == handle && d.live_streams.count(s.get())) return s;
    return nullptr;
}

Result run_until(Device& d, Stream& stream, uint64_t sequence) {
    while (stream.done < sequence && !d.sticky) {
        Stream::Queued next = std::move(stream.queue.front());
        stream.queue.pop_front();
        for (auto& [other, until] : next.after)
            if (Result r = run_until(d, *other, until)) return r;
        const Result r = next.run(d);
        stream.done++;
        if (r) set_sticky(d, r, "an operation of a stream failed");
    }
    return d.sticky;
}

Result run_everything(Device& d) {
    run_until(d, *d.default_stream, d.default_stream->issued);
    for (size_t i = 0; i < d.streams.size(); i++) run_until(d, *d.streams[i], d.streams[i]->issued);
    std::erase_if(d.streams, [&](const auto& s) { return s->done == s->issued && !d.live_streams.count(s.get()); });
    return d.sticky;
}

static bool any_capture(const Device& d, bool blocking_only) {
    return std::any_of(d.streams.begin(), d.streams.end(),
                       [&](const auto& s) { return s->capture && (s->blocking || !blocking_only); });
}

Result enqueue(Device& d, const std::shared_ptr<Stream>& stream, Operation operation) {
    if (stream->capture) {
        Capture& c = *stream->capture;
        if (c.invalidated) return CAPTURE_INVALIDATED;
        c.graph.nodes.push_back({std::move(operation), stream->capture_last});
        stream->capture_last = {uint32_t(c.graph.nodes.size() - 1)};
        return SUCCESS;
    }
    Stream::Queued queued{std::move(operation), {}};
    if (stream == d.default_stream) {
        if (any_capture(d, true)) {
            for (auto& s : d.streams)
                if (s->capture && s->blocking) s->capture->invalidated = true;
            return CAPTURE_IMPLICIT;
        }
        for (const auto& s : d.streams)
            if (s->blocking && s->done < s->issued) queued.after.push_back({s, s->issued});
    } else if (stream->blocking && d.default_stream->done < d.default_stream->issued) {
        queued.after.push_back({d.default_stream, d.default_stream->issued});
    }
    stream->queue.push_back(std::move(queued));
    stream->issued++;
    return SUCCESS;
}

Result refuse_during_capture(Device& d) {
    Result r = SUCCESS;
    for (auto& s : d.streams)
        if (s->capture && s->capture->mode != 2) {
            s->capture->invalidated = true;
            r = CAPTURE_UNSUPPORTED;
        }
    return r;
}

static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

static Event* find_event(Device& d, void* handle) {
    auto found = d.events.find(static_cast<Event*>(handle));
    return found == d.events.end() ? nullptr : found->second.get();
}

static int create_stream(void** handle, unsigned flags, Device& d) {
    auto stream = std::make_shared<Stream>();
    stream->blocking = !(flags & 1);
    d.streams.push_back(stream);
    d.live_streams.insert(stream.get());
    *handle = stream.get();
    return SUCCESS;
}

}  // namespace emu

using namespace emu;

#define FIND_STREAM(name, handle)                                       \
    std::shared_ptr<Stream> name = find_stream(entry.device(), handle); \
    if (!name) return INVALID_HANDLE
#define FIND_EVENT(name, handle)                      \
    Event* name = find_event(entry.device(), handle); \
    if (!name) return INVALID_HANDLE

EMU_EXPORT int cuStreamCreate(void** handle, unsigned flags) {
    EMU_ENTER(entry, __func__);
    return create_stream(handle, flags, entry.device());
}
EMU_EXPORT int cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
    EMU_ENTER(entry, __func__);
    return create_stream(handle, flags, entry.device());
}
EMU_EXPORT int cuStreamDestroy_v2(void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    if (stream == entry.device().default_stream) return INVALID_HANDLE;
    entry.device().live_streams.erase(stream.get());  // what it has queued still runs when somebody waits for it
    if (stream->capture) stream->capture->invalidated = true;
    return SUCCESS;
}
EMU_EXPORT int cuStreamSynchronize(void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    if (stream->capture) {
        stream->capture->invalidated = true;
        return CAPTURE_UNSUPPORTED;
    }
    Device& d = entry.device();
    if (stream == d.default_stream)  // it comes after everything in blocking streams
        for (size_t i = 0; i < d.streams.size(); i++)
            if (d.streams[i]->blocking && !d.streams[i]->capture) run_until(d, *d.streams[i], d.streams[i]->issued);
    return run_until(d, *stream, stream->issued);
}
// A query makes progress by one operation, so that polling comes to an end.
EMU_EXPORT int cuStreamQuery(void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    if (stream->capture) {
        stream->capture->invalidated = true;
        return CAPTURE_UNSUPPORTED;
    }
    if (stream->done == stream->issued) return SUCCESS;
    if (Result r = run_until(entry.device(), *stream, stream->done + 1)) return r;
    return NOT_READY;
}
EMU_EXPORT int cuStreamGetPriority(void* handle, int* priority) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    *priority = 0;
    return SUCCESS;
}
EMU_EXPORT int cuStreamGetFlags(void* handle, unsigned* flags) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    *flags = !stream->blocking;
    return SUCCESS;
}
EMU_EXPORT int cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    FIND_EVENT(event, event_handle);
    if (event->capture) {  // a join, or a fork, of a capture
        if (event->capture->invalidated) return CAPTURE_INVALIDATED;
        if (stream->capture && stream->capture != event->capture) return CAPTURE_ISOLATION;
        stream->capture = event->capture;
        for (uint32_t node : event->capture_nodes)
            if (std::find(stream->capture_last.begin(), stream->capture_last.end(), node) == stream->capture_last.end())
                stream->capture_last.push_back(node);
        return SUCCESS;
    }
    if (stream->capture) {
        stream->capture->invalidated = true;
        return CAPTURE_ISOLATION;
    }
    if (!event->stream) return SUCCESS;
    const auto other = event->stream;
    const uint64_t until = event->sequence;
    return enqueue(entry.device(), stream, [other, until](Device& d) { return run_until(d, *other, until); });
}
EMU_EXPORT int cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    EMU_ENTER(entry, __func__);
    FIND_STREAM(stream, handle);
    return enqueue(entry.device(), stream, [=](Device&) {
        function(data);
        return SUCCESS;
    });
}

// ---- events

EMU_EXPORT int cuEventCreate(void** handle, unsigned flags) {
    EMU_ENTER(entry, __func__);
    auto event = std::make_unique<Event>();
    event->timed = !(flags & 2);
    *handle = event.get();
    entry.device().events[event.get()] = std::move(event);
    return SUCCESS;
}
EMU_EXPORT int cuEventDestroy_v2(void* handle) {
    EMU_ENTER(entry, __func__);
    return entry.device().events.erase(static_cast<Event*>(handle)) ? SUCCESS : INVALID_HANDLE;
}
EMU_EXPORT int cuEventRecord(void* handle, void* stream_handle) {
    EMU_ENTER(entry, __func__);
    FIND_EVENT(event, handle);
    FIND_STREAM(stream, stream_handle);
    if (stream->capture) {
        if (stream->capture->invalidated) return CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->capture_nodes = stream->capture_last;
        event->stream = nullptr;
        return SUCCESS;
    }
    event->capture = nullptr;
    event->time = std::make_shared<double>(0);
    const Result r = enqueue(entry.device(), stream, [time = event->time](Device&) {
        *time = now();
        return SUCCESS;
    });
    event->stream = stream;
    event->sequence = stream->issued;
    return r;
}
EMU_EXPORT int cuEventQuery(void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_EVENT(event, handle);
    if (event->capture) return CAPTURED_EVENT;
    if (!event->stream || event->stream->done >= event->sequence) return SUCCESS;
    if (Result r = run_until(entry.device(), *event->stream, event->stream->done + 1)) return r;
    return NOT_READY;
}
EMU_EXPORT int cuEventSynchronize(void* handle) {
    EMU_ENTER(entry, __func__);
    FIND_EVENT(event, handle);
    if (event->capture) return CAPTURED_EVENT;
    return event->stream ? run_until(entry.device(), *event->stream, event->sequence) : SUCCESS;
}
static int elapsed(float* milliseconds, void* from_handle, void* to_handle, const char* function) {
    EMU_ENTER(entry, function);
    FIND_EVENT(from, from_handle);
    FIND_EVENT(to, to_handle);
    if (!from->timed || !to->timed || !from->stream || !to->stream) return INVALID_HANDLE;
    if (from->stream->done < from->sequence || to->stream->done < to->sequence) return NOT_READY;
    *milliseconds = float((*to->time - *from->time) * 1e3);
    return SUCCESS;
}
EMU_EXPORT int cuEventElapsedTime(float* ms, void* from, void* to) { return elapsed(ms, from, to, __func__); }
EMU_EXPORT int cuEventElapsedTime_v2(float* ms, void* from, void* to) { return elapsed(ms, from, to, __func__); }
