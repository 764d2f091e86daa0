// Errors of kernels: messages, memory faults and time limits turned into failed launches, addresses turned into source
// lines.
#include "fault.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <mutex>

#include "heap.h"
#include "launch.h"

// Kernels' code lies between these two (build.rs links them in this order).
extern "C" void emu_kernels_begin();
extern "C" void emu_kernels_end();

namespace emu {

const char* short_name(const char* file) {
    if (!file || !*file) return "?";
    const char* kernels = strstr(file, "kernels/");
    return kernels ? kernels : file;
}

std::string formatted(const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

static std::string where() {
    const Lane* l = current();
    const uint3 b = position.block_index, t = l->thread_index;
    return formatted("block (%u,%u,%u) thread (%u,%u,%u) [warp %u lane %u]", b.x, b.y, b.z, t.x, t.y, t.z, l->warp->index,
                     l->lane);
}

[[noreturn]] static void leave(std::string message, void* code) {
    Block& b = *block;
    LaunchState& launch = *b.launch;
    launch.failed = true;
    launch.error = std::move(message);
    launch.error_code = code;
    b.aborted = true;
    current_face = nullptr;
    void* abandoned;
    emu_switch_fiber(&abandoned, b.scheduler);
    __builtin_unreachable();
}

[[noreturn]] void fail(Location at, const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail_at(&at, nullptr, text);
}
[[noreturn]] void fail_at(const Location* at, void* code, const std::string& message) {
    std::string text = message + "\n  in kernel " + block->launch->kernel->name + ", " + where();
    if (at) {
        text = formatted("%s:%d: ", short_name(at->file()), at->line()) + text;
        code = nullptr;
    }
    leave(std::move(text), code);
}
[[noreturn]] void fail_block(const std::string& message) {
    const uint3 b = position.block_index;
    leave(message + formatted("\n  in kernel %s, block (%u,%u,%u)", block->launch->kernel->name.c_str(), b.x, b.y, b.z),
          nullptr);
}

std::string symbolize(void* code) {
    Dl_info info;
    if (!code || !dladdr(code, &info)) return formatted("code at %p", code);
    const size_t offset = size_t(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)) - 1;
    const std::string unknown = formatted("%s+%#zx (install binutils for source lines)", info.dli_fname, offset);
    FILE* pipe = popen(formatted("addr2line -i -e '%s' %#zx 2>/dev/null", info.dli_fname, offset).c_str(), "r");
    if (!pipe) return unknown;
    std::string best;
    char line[512];
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, "\n")] = 0;
        if (char* note = strstr(line, " (")) *note = 0;  // (discriminator n)
        if (strstr(line, "emulated") || line[0] == '?') continue;
        const std::string place = short_name(line);
        if (best.empty()) best = place;
        else if (best.size() < 200) best += " <- " + place;
    }
    pclose(pipe);
    return best.empty() ? unknown : best;
}

// ---- memory faults

static struct sigaction previous_segv, previous_bus;
static __thread char* fault_address;
static __thread void* fault_code;
static __thread bool time_is_up;

static void on_lane_fault() {
    Block& b = *block;
    const Lane& l = *current();
    const char* a = fault_address;
    std::string what = "an address that is no memory";
    if (a >= l.stack.low - GUARD_BYTES && a < l.stack.low)
        what = formatted("stack overflow: more than %zu KB of local variables", STACK_BYTES >> 10);
    else if (b.in_shared(a)) what = b.describe_shared(b.offset_of(a));
    else if (heap_contains(a)) what = heap_describe(a);
    fail_at(nullptr, fault_code, formatted("illegal address %p: %s", static_cast<const void*>(a), what.c_str()));
}
static void on_time_is_up() {
    fail_at(nullptr, fault_code,
            formatted("TIME LIMIT: the launch has run for %.0f s (an endless loop?)", block->launch->options.seconds));
}

// Continues at `entry` on the current fiber's stack. What the stack held is lost: the lane is about to be abandoned.
static void divert(ucontext_t* context, void (*entry)()) {
    const uintptr_t top = (uintptr_t(current()->stack.high) - 16384) & ~uintptr_t(63);
#if defined(__x86_64__)
    context->uc_mcontext.gregs[REG_RSP] = greg_t(top - 8);
    context->uc_mcontext.gregs[REG_RIP] = greg_t(reinterpret_cast<void*>(entry));
#else
    context->uc_mcontext.sp = top;
    context->uc_mcontext.pc = uintptr_t(reinterpret_cast<void*>(entry));
#endif
}
static void* program_counter(const ucontext_t* context) {
#if defined(__x86_64__)
    return reinterpret_cast<void*>(context->uc_mcontext.gregs[REG_RIP]);
#else
    return reinterpret_cast<void*>(context->uc_mcontext.pc);
#endif
}

static void on_memory_signal(int signal, siginfo_t* info, void* context) {
    if (!current_face) {  // not ours: the next occurrence goes to whoever handled it before
        sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
        return;
    }
    fault_address = static_cast<char*>(info->si_addr);
    fault_code = static_cast<char*>(program_counter(static_cast<ucontext_t*>(context))) + 1;
    divert(static_cast<ucontext_t*>(context), on_lane_fault);
}

// A lane may be stopped only in a kernel's own code: the runtime and the C library may hold locks. The timer fires again and
// again until it finds one there.
static void on_time_signal(int, siginfo_t*, void* context) {
    void* code = program_counter(static_cast<ucontext_t*>(context));
    if (!time_is_up || !current_face || code < reinterpret_cast<void*>(emu_kernels_begin) ||
        code >= reinterpret_cast<void*>(emu_kernels_end))
        return;
    fault_code = static_cast<char*>(code) + 1;
    divert(static_cast<ucontext_t*>(context), on_time_is_up);
}

void install_fault_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action{};
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        action.sa_sigaction = on_memory_signal;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
        action.sa_sigaction = on_time_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER;
        sigaction(SIGVTALRM, &action, nullptr);
    });
    stack_t stack{};
    sigaltstack(nullptr, &stack);
    if (!(stack.ss_flags & SS_DISABLE)) return;
    stack.ss_size = 64 << 10;
    stack.ss_sp = mmap(nullptr, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack.ss_flags = 0;
    sigaltstack(&stack, nullptr);
}

void limit_processor_time(double seconds) {
    struct Timer {
        timer_t id{};
        bool made = false;
        ~Timer() {
            if (made) timer_delete(id);
        }
    };
    static thread_local Timer timer;
    time_is_up = false;
    if (!timer.made) {
        struct sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGVTALRM;
        event._sigev_un._tid = int(syscall(SYS_gettid));
        timer.made = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer.id) == 0;
        if (!timer.made) return;
    }
    struct itimerspec spec{};
    spec.it_value.tv_sec = time_t(seconds);
    spec.it_value.tv_nsec = long((seconds - double(time_t(seconds))) * 1e9);
    spec.it_interval.tv_nsec = 20'000'000;
    if (seconds <= 0) spec = {};
    else time_is_up = true;  // no signal comes before the limit
    timer_settime(timer.id, 0, &spec, nullptr);
}

}  // namespace emu
