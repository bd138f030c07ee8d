// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: says which queue it waits for, but not for how much. The third series keeps wait_nr from
 * the run before; in the first run it is 0, and the request ends with -EINVAL.
 */
#define TWIN
#include "prog.bpf.c"
