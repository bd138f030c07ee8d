/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The copy of the gallery, deeper. */
#define DEPTH_MAX 128
#include "../../examples/11_copy/prog.bpf.c"
