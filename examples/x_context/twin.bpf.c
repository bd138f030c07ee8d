// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: takes it for granted that the request names a connection, and a whole one.
 */
#define TWIN
#include "prog.bpf.c"
