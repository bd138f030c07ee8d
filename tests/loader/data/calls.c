// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Functions calling functions: static and global, in .text, as callbacks, shared by
 * several programs of one section. */
#include "bpf.h"

u64 counter;
static volatile u64 factor = 5;

static NOINLINE u32 leaf(u32 x)
{
	return x * 3 + factor;
}

NOINLINE u32 shared(u32 x)
{
	return leaf(x) + 1;
}

__attribute__((weak)) NOINLINE u32 weak_one(u32 x)
{
	return leaf(x) + 2;
}

__attribute__((visibility("hidden"))) NOINLINE u32 hidden_one(u32 x)
{
	return x ^ 0x55;
}

static long each(u32 index, void *ctx)
{
	counter += leaf(index);
	return 0;
}

SEC("socket/a")
int one(void *ctx)
{
	loop(3, each, 0, 0);
	return shared(1);
}

SEC("socket/a")
int two(void *ctx)
{
	return leaf(2);
}

SEC("socket/b")
int three(void *ctx)
{
	return weak_one(4) + hidden_one(5);
}
