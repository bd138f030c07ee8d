// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: nobody looks at the bytes, so why wait for a buffer? All reads go out at once, their
 * completions do not fit the queue, and the request waits for ever for those that were dropped.
 */
#define NO_BUFFER buffer = 0
#include "prog.bpf.c"
