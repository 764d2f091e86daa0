// Settings of emulated devices, from Rust and from the environment variable GRAMOPHONE_EMU.
#include "settings.h"

#include <cstdlib>

namespace emu {

Settings settings_of(const EmuConfiguration& c) {
    Settings s;
    s.seed = c.seed, s.memory = c.memory, s.taken = c.taken, s.steps = c.steps, s.seconds = c.seconds;
    s.checked = c.checked, s.strict_wgmma = c.strict_wgmma, s.costs = c.costs;
    s.capability_major = c.capability_major, s.capability_minor = c.capability_minor;
    s.multiprocessors = c.multiprocessors, s.driver_version = c.driver_version;
    if (c.fail_call) s.fail_call = c.fail_call, s.fail_nth = c.fail_nth, s.fail_code = c.fail_code;
    return s;
}

[[noreturn]] static void not_understood(const std::string& word) {
    fprintf(
        stderr,
        "emulated GPU: GRAMOPHONE_EMU has \"%s\"; it takes, separated by commas: checked, fast, seed=N, memory=BYTES, "
        "taken=BYTES, devices=N,\n"
        "capability=MAJOR.MINOR, multiprocessors=N, driver=VERSION, steps=N, seconds=S, lenient, "
        "fail=FUNCTION:NTH:ERROR,\n"
        "costs=FILE\n",
        word.c_str());
    _Exit(2);
}
// A number with nothing after it.
static uint64_t number(const std::string& word, const std::string& text) {
    char* end;
    const uint64_t n = strtoull(text.c_str(), &end, 0);
    if (text.empty() || *end) not_understood(word);
    return n;
}

static void take_word(Environment& e, const std::string& word) {
    Settings& s = e.settings;
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals), value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (word == "checked") s.checked = true;
    else if (word == "fast") s.checked = false;
    else if (word == "lenient") s.strict_wgmma = false;
    else if (key == "seed") s.seed = number(word, value);
    else if (key == "memory") s.memory = number(word, value);
    else if (key == "taken") s.taken = number(word, value);
    else if (key == "multiprocessors") s.multiprocessors = int(number(word, value));
    else if (key == "driver") s.driver_version = int(number(word, value));
    else if (key == "steps") s.steps = number(word, value);
    else if (key == "seconds") s.seconds = double(number(word, value));
    else if (key == "costs" && !value.empty()) e.costs = value;
    else if (key == "devices") e.devices = int(std::min<uint64_t>(number(word, value), MAX_DEVICES));
    else if (key == "capability") {
        const size_t dot = value.find('.');
        if (dot == std::string::npos) not_understood(word);
        s.capability_major = int(number(word, value.substr(0, dot)));
        s.capability_minor = int(number(word, value.substr(dot + 1)));
    } else if (key == "fail") {
        const size_t first = value.find(':'), second = value.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) not_understood(word);
        s.fail_call = value.substr(0, first);
        s.fail_nth = number(word, value.substr(first + 1, second - first - 1));
        s.fail_code = int(number(word, value.substr(second + 1)));
    } else not_understood(word);
}

const Environment& environment() {
    static const Environment read = [] {
        Environment e;
        const char* text = getenv("GRAMOPHONE_EMU");
        std::string rest = text ? text : "";
        while (!rest.empty()) {
            const size_t comma = rest.find(',');
            take_word(e, rest.substr(0, comma));
            rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        }
        return e;
    }();
    return read;
}

}  // namespace emu
