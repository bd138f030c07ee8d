// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: counts completions, not answers. The deadline's own is one of them.
 */
#define TWIN
#include "prog.bpf.c"
