// CUDA C++ as kernels see it when a host compiler compiles them for the emulated GPU.
//
// `kernels/base/kernel.cuh` includes this file in place of CUDA's own headers. It declares what kernels may use and nothing
// else: what is absent here (float atomics, `__activemask`, `clock`, raw `__shared__`, ...) is absent on purpose, so that a kernel
// that uses it does not compile. Every collective operation takes the place of its call as a last, defaulted argument.
#pragma once
#include <algorithm>
#include <bit>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <source_location>
#include <type_traits>
#include <utility>

#include "emulated/vector_types.h"

#include "emulated/services.h"

#include "emulated/language.h"

#include "emulated/bf16.h"

#include "emulated/math.h"

#include "emulated/collectives.h"

#include "emulated/atomics.h"
