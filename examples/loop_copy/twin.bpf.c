// SPDX-License-Identifier: MIT
/*
 * The twin: writes the whole buffer after each read. Behind the last piece of a file it still holds
 * the one before, and so does the copy.
 */
#define HAVE buffer_bytes
#include "prog.bpf.c"
