// SPDX-License-Identifier: MIT
/*
 * The twin: writes as much as it asked for, not as much as it got. Behind the last piece of a file comes
 * what an earlier one left in the block.
 */
#define GOT BLOCK
#include "prog.bpf.c"
