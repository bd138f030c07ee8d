// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: takes every result but 0 for a number of bytes. A client that resets its connection
 * gives -ECONNRESET, and 4 GiB less 104 bytes are to be sent back to it.
 */
#define GONE(res) ((res) == 0)
#include "prog.bpf.c"
