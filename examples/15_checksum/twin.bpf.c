// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: each read carries the address of its buffer, and what comes back is believed. Any
 * request may complete into that queue; one of the host's own makes the program read elsewhere.
 */
#define TOKEN(slot, job) ((job)->buffers + (slot) * BLOCK)
#define SLOT(token, job) (((token) - (job)->buffers) / BLOCK)
#define BUFFER(token, job) (void *)(token)
#include "prog.bpf.c"
