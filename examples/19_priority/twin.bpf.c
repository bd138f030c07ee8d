// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: five classes. The fourth queue is the bell, and of a fifth the ring knows nothing: to
 * reap from it is an error that looks like an empty queue.
 */
#define LOWEST 5
#include "prog.bpf.c"
