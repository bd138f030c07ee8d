// SPDX-License-Identifier: MIT
/*
 * The twin: one record is a group. Nothing is lost, and ten records take ten times as long as the disk
 * needs for one.
 */
#define GROUP 1
#include "prog.bpf.c"
