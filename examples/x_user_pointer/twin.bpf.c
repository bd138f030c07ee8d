// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: checks the tail in user memory, and loads it again to use it.
 */
#define TWIN
#include "prog.bpf.c"
