// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Variables in every kind of section, static and global, used with and without an offset. */
#include "bpf.h"

u64 zeroed;
static volatile u32 hidden_zero[3];
u64 data = 0x1122334455667788;
static volatile u32 counted[4] = { 10, 20, 30, 40 };
const volatile u32 limit = 7;
static const volatile u8 table[5] = { 1, 2, 3, 4, 5 };
u32 tuned SEC(".data.tuned") = 99;
u64 scratch[2] SEC(".bss.scratch");
const volatile u64 magic SEC(".rodata.magic") = 0xfeedface;

SEC("socket")
int touch(void *ctx)
{
	static u32 runs;

	runs++;
	zeroed += data;
	hidden_zero[2] = counted[3] + table[4];
	scratch[1] = magic;
	tuned = limit;
	return runs;
}
