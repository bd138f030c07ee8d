// SPDX-License-Identifier: MIT
/*
 * The twin: adds to the head as it was when the step began. If a completion was taken since, that
 * index is reached already, and the step runs again and again until the next read is done.
 */
#define NEXT (first + 1)
#include "prog.bpf.c"
