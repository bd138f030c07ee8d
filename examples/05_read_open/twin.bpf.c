// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The twin: does not ask whether the file could be opened. Where it could not, -ENOENT becomes the
 * descriptor of the read, and the host never learns why there is nothing in its buffer.
 */
#define FAILED(res) 0
#include "prog.bpf.c"
