// Settings of emulated devices: from Rust through `emu_configure`, or from the environment for device 0.
#pragma once
#include "driver.h"

// Mirrors `Configuration` in kernels/emu/src/lib.rs.
struct EmuConfiguration {
    uint64_t seed, memory, taken, steps, fail_nth;
    double seconds;
    const char* fail_call;
    int32_t checked, strict_wgmma, capability_major, capability_minor, multiprocessors, driver_version, fail_code, costs;
};

namespace emu {

Settings settings_of(const EmuConfiguration& c);

struct Environment {
    Settings settings;  // of device 0
    int devices = 1;
    std::string costs;  // the file for the costs of all checked devices; none if empty
};
// What GRAMOPHONE_EMU says; read once. Ends the process with a message if it cannot be understood.
const Environment& environment();

}  // namespace emu
