// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: links the close too, to nothing. What a program submits next, or the end of its run,
 * becomes part of the chain.
 */
#define LAST SQE_IO_HARDLINK
#include "prog.bpf.c"
