/* SPDX-License-Identifier: MIT */
/* freplace: for functions of nops.bpf.c and request.bpf.c. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

u32 asked;

SEC("freplace/depth") u32 four(u32 left)
{
	asked++;
	return 4;
}

static long (*const copy_from_user)(void *to, u32 size, const void *from) = (void *)148;

/* A call that may sleep. */
SEC("freplace/told") u32 un_sleeps(u32 count)
{
	u32 value = 0;

	copy_from_user(&value, sizeof(value), 0);
	return value;
}

SEC("freplace/told") u32 twice(u32 count)
{
	asked++;
	return 2 * count;
}

SEC("freplace/nops") int un_whole(u64 *args) { return LOOP_STOP; }
