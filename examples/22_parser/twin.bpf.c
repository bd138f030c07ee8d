// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: a length of 0xffffffff is -1, which is not too long.
 */
#define LENGTH s32
#include "prog.bpf.c"
