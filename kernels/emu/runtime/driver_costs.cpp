// Where counted costs go: to the tests that ask for a device's, and, as GRAMOPHONE_EMU wants it, to a file when the process
// ends.
#include <cerrno>
#include <cstdlib>

#include "driver.h"
#include "settings.h"

namespace emu {

static bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && !text.compare(text.size() - end.size(), end.size(), end);
}

static void write_costs() {
    Costs all;
    for (Device* d : devices_in_use()) {
        std::lock_guard<std::recursive_mutex> guard(d->mutex);
        if (d->costs) all.add(*d->costs);
    }
    const std::vector<Cost> costs = all.lines();
    const std::string& name = environment().costs;
    if (costs.empty()) {
        fprintf(stderr, "emulated GPU: nothing to write to %s: no kernel has run on a checked device\n", name.c_str());
        return;
    }
    const std::string text = ends_with(name, ".tsv") ? costs_tsv(costs) : costs_table(costs);
    FILE* file = fopen(name.c_str(), "w");
    bool written = file && fwrite(text.data(), 1, text.size(), file) == text.size();
    if (file) written &= fclose(file) == 0;
    if (!written) fprintf(stderr, "emulated GPU: cannot write %s: %s\n", name.c_str(), strerror(errno));
}

void count_costs(Device& d) {
    d.costs.reset();
    const bool to_file = !environment().costs.empty();
    // Only a process that has a device writes the file: its children, which inherit the environment, leave it alone.
    static const int registered = to_file ? atexit(write_costs) : 0;
    (void)registered;
    if (d.settings.checked && (d.settings.costs || to_file)) d.costs = std::make_unique<Costs>();
}

static Device* counting(int ordinal) {
    for (Device* d : devices_in_use())
        if (d->ordinal == ordinal && d->costs) return d;
    return nullptr;
}

}  // namespace emu

using namespace emu;

// What a device's launches have cost so far: lines of fields, or tables. Null if it does not count. The text stays valid
// until the next call for this device.
EMU_EXPORT const char* emu_costs(int ordinal, int readable) {
    Device* d = counting(ordinal);
    if (!d) return nullptr;
    std::lock_guard<std::recursive_mutex> guard(d->mutex);
    const std::vector<Cost> costs = d->costs->lines();
    d->costs_text = readable ? costs_table(costs) : costs_tsv(costs);
    return d->costs_text.c_str();
}
