// SPDX-License-Identifier: MIT
/* The twin: believes that no stream has more lines than the table. */
#define ROOM 1
#include "prog.bpf.c"
