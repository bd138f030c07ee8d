// SPDX-License-Identifier: MIT
/*
 * The twin: takes the CQ to have as many entries as the SQ. Once eight blocks are summed it
 * takes the completions of the first ones for those of the next.
 */
#define CQE_MASK (SLOTS - 1)
#include "prog.bpf.c"
