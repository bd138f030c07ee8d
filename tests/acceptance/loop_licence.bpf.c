// SPDX-License-Identifier: MIT
/* Kernel functions and callbacks are for programs under a GPL-compatible licence only. */
#include "io_uring_loop.h"

LICENSE("Proprietary");

RING_STEP(stops) { return LOOP_STOP; }
RING_OPS(stop, stops);
