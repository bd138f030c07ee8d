// SPDX-License-Identifier: MIT
/*
 * The twin: waits for "1 completion". It is an index of the CQ's tail, which is there after the first one: the
 * server never waits again, and takes a whole CPU while its clients say nothing.
 */
#define NEXT 1
#include "prog.bpf.c"
