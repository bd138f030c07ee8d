// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: finds no ticket, and then sleeps for as long as the word stays what it is by now. Who
 * gave a ticket in between is not heard any more.
 */
#define TWIN
#include "prog.bpf.c"
