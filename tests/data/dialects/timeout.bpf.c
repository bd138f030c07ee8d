// SPDX-License-Identifier: MIT
/* The proposal of June 2026: waits that end after a while. */
#include "dialect.h"

struct iou_ctx {};
struct iou_loop_params {
	u32 cq_wait_idx;
	u32 flags;
	u64 timeout_ns;
};
#define RING struct iou_ctx
#define STATE struct iou_loop_params
struct io_uring_bpf_ops {
	int (*loop_step)(RING *ring, STATE *state);
	u32 ring_fd;
};
#define OPS(name) SEC(".struct_ops.link") struct io_uring_bpf_ops ops_##name = { .loop_step = (void *)name }

enum { TIMEOUT = 1, TIMEOUT_ABS = 2, WAIT_TIMED_OUT = 4 };

static u64 (*const now)(void) = (void *)5;

u32 steps, give_flags, wait_idx, last;
u64 give_ns;
u32 seen[4]; /* the flags that each step found */
u64 at[4];   /* and when */

/* Waits `last` times as the host says; stops when that is done. */
STEP(waits)
{
	seen[steps & 3] = state->flags;
	at[steps & 3] = now();
	if (steps++ == last)
		return 1;
	state->cq_wait_idx = wait_idx;
	if (steps == 1 || give_flags & 0x100) {
		state->flags = give_flags & 0xff;
		state->timeout_ns = give_ns;
	}
	return 0;
}
OPS(waits);

/* Refused: beyond the parameters, and across two of them. */
STEP(no_beyond)
{
	*(volatile u32 *)((u8 *)state + 16) = 1;
	return 1;
}
OPS(no_beyond);

STEP(no_across)
{
	*(volatile u64 *)state = 1;
	return 1;
}
OPS(no_across);

STEP(reads_ring)
{
	return *(volatile u32 *)ring;
}
OPS(reads_ring);
