// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: its reads have no link flag, so there is no chain behind which a worker could go on.
 */
#define TWIN
#include "prog.bpf.c"
