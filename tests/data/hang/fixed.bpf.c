// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* The echo server that does not hang. */
#define FIXED
#include "echo.bpf.c"
