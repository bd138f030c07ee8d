// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: computes positions in 32 bits. Every file of less than 4 GiB is copied as it should be.
 */
#define POSITION u32
#include "prog.bpf.c"
