// SPDX-License-Identifier: MIT
/* The twin: has filled one entry and submits two. What is in the second one is performed as well. */
#define ENTRIES 2
#include "prog.bpf.c"
