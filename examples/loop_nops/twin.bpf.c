// SPDX-License-Identifier: MIT
/*
 * The twin: stops when nothing is left to submit. What is in flight then nobody takes, and the next
 * enter finds foreign completions.
 */
#define DONE (!to_run)
#include "prog.bpf.c"
