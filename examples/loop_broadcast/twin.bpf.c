// SPDX-License-Identifier: MIT
/*
 * The twin: receives 16 KiB at once into a region of 8 KiB. A kernel gives no such region, so the program
 * stops before it has begun, and says nothing.
 */
#define PIECE 16384
#include "prog.bpf.c"
