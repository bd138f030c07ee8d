// SPDX-License-Identifier: MIT
/*
 * The twin: sleeps until all that it wants has arrived. The deadline is one completion, which alone
 * wakes nobody: it is late by as much as the sockets are.
 */
#define NEXT (head + (ending || arrived >= wanted ? 1 : wanted - arrived))
#include "prog.bpf.c"
