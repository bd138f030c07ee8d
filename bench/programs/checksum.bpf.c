/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The checksum of the gallery, deeper, over blocks of 4 KiB. */
#define DEPTH 128
#define WORDS 512
#include "../../examples/15_checksum/prog.bpf.c"
