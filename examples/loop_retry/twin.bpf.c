// SPDX-License-Identifier: MIT
/*
 * The twin: sets the timer and goes on, without an index of its own. The one from before the read is
 * behind the tail, so nothing waits: it asks again and again whether the timer has ended.
 */
#define WAIT_FOR_THE_TIMER (void)0
#include "prog.bpf.c"
