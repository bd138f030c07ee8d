// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: acknowledges what is written. As long as the machine stays up and the disk is well,
 * nobody can tell.
 */
#define DURABLE WRITTEN
#include "prog.bpf.c"
