// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: reads the next block into a buffer as soon as the last one is in it, and not when the
 * other ring has written it out.
 */
#define CREDITED 0
#include "prog.bpf.c"
