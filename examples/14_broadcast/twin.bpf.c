// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: receives the next message while this one is still on its way, into the same buffer.
 * With quick readers all is well.
 */
#define TWIN
#include "prog.bpf.c"
