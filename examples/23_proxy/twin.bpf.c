// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: does not pass on that one side has nothing more to say. A server that answers at the end
 * of a request waits for it, the client for the answer, and the proxy for both.
 */
#define PASSED_ON 0
#include "prog.bpf.c"
