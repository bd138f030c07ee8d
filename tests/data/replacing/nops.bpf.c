/* SPDX-License-Identifier: MIT */
/* NOPs, as many in flight as a global function says, which another object replaces. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

#define ENTRIES 8

u32 to_run;
u32 in_flight;
u32 steps;

/* How many to keep in flight. */
__attribute__((noinline)) u32 depth(u32 left)
{
	return *(volatile u32 *)&left ? 1 : 0;
}

__attribute__((noinline)) u32 told(u32 count)
{
	return *(volatile u32 *)&count;
}

RING_STEP(nops)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, ENTRIES * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT);
	u32 head, wanted;

	if (!sq || !cq)
		return LOOP_STOP;
	steps++;
	head = WORD(cq, CQ_TAIL_AT);
	in_flight -= head - WORD(cq, CQ_HEAD_AT);
	WORD(cq, CQ_HEAD_AT) = head;
	wanted = told(depth(to_run));
	if (wanted > ENTRIES)
		wanted = ENTRIES;
	if (wanted > to_run)
		wanted = to_run;
	if (!wanted)
		return LOOP_STOP;
	for (u32 i = 0; i < ENTRIES && i < wanted; i++)
		((volatile struct sqe *)sq)[i].opcode = OP_NOP;
	if (bpf_io_uring_submit_sqes(ring, wanted) != (int)wanted)
		return LOOP_STOP;
	in_flight += wanted;
	to_run -= wanted;
	params->cq_wait_idx = head + in_flight;
	return LOOP_CONTINUE;
}
RING_OPS(nops_ops, nops);
