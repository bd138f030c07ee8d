// SPDX-License-Identifier: MIT
/*
 * The twin: says what it has taken in the word of the CQ's tail, which the kernel writes. The head
 * stays, so the first completion is taken for ever.
 */
#define TAKEN_AT CQ_TAIL_AT
#include "prog.bpf.c"
