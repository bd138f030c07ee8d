// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: reports before it knows whether it will try again. The host takes the first failure for
 * the end, and then comes another.
 */
#define TOLD(res) 1
#include "prog.bpf.c"
