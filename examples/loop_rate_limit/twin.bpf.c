// SPDX-License-Identifier: MIT
/*
 * The twin: never looks at what the submission returned. Where the ring took fewer, it waits for
 * completions of requests that nobody has.
 */
#define SUBMITTED (bpf_io_uring_submit_sqes(ring, filled), 1)
#include "prog.bpf.c"
