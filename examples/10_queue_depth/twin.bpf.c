// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: does not look whether reaping gave a completion. An empty queue gives 16 zero bytes,
 * which count as a read of block 0 that is done: `in_flight` falls below what is in flight, and
 * slot 0 is read into twice.
 */
#define NONE_LEFT 0
#include "prog.bpf.c"
