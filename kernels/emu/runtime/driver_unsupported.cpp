// Every other function of the driver that cudarc can name: it says that it is not here. The names are in driver_names.inc,
// made by
//
//   grep -oE '"cu[A-Z][A-Za-z0-9_]*"' cudarc-0.19.10/src/driver/sys/mod.rs | tr -d '"' | sort -u | sed 's/.*/EMU_NAME(&)/'
//
// The definitions are weak, so those of the other files take their places.
#include <cstdio>

#include "driver.h"

#define EMU_NAME(name)                                                                                   \
    EMU_EXPORT __attribute__((weak)) int name() {                                                        \
        fprintf(stderr, "emulated GPU: %s is not emulated (kernels/emu/runtime/driver_*.cpp)\n", #name); \
        return emu::NOT_SUPPORTED;                                                                       \
    }
#include "driver_names.inc"
