// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: stops at the number of bytes that the read gave, and nowhere else. That number comes
 * from outside; nothing says that it is at most CHUNK.
 */
#define IN_CHUNK(at) ((at) < 0x10000)
#include "prog.bpf.c"
