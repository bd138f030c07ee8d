/* SPDX-License-Identifier: MIT */
/* A BPF request that posts what a global function says. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

__attribute__((noinline)) u32 told(u32 count)
{
	return *(volatile u32 *)&count;
}

RING_PROG(posts)
{
	emit(ctx, 0, told(ctx->user_data), 0, 0);
	return finish(ctx);
}
