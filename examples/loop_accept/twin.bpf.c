// SPDX-License-Identifier: MIT
/*
 * The twin: takes each completion of the accept for its last, and submits another one beside it. Accepts pile up,
 * one for each client.
 */
#define IS_OVER(flags) 1
#include "prog.bpf.c"
