// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: writes the whole buffer, however little the last read of a file put into it. What was
 * there before goes out again.
 */
#define TO_WRITE(got) BUFFER
#include "prog.bpf.c"
