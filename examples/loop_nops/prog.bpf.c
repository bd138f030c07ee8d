// SPDX-License-Identifier: MIT
/* Keeps up to `depth` NOPs in flight until `to_run` have been submitted and reaped. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) stops too early. */
#ifndef DONE
#define DONE (!in_flight)
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 sq_entries = 8;
const volatile u32 cq_entries = 16;

u32 to_run;
u32 in_flight;
u32 steps;
u32 strangers;

#define TAG 0x10af

RING_STEP(keep_busy)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sq_entries * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head, tail, room;

	if (!sq || !cq)
		return LOOP_STOP;
	steps++;

	head = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	for (int i = 0; i < 64 && head != tail; i++, head++) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (cq_entries - 1));

		if (done->user_data != TAG)
			strangers++;
		in_flight--;
	}
	WORD(cq, CQ_HEAD_AT) = head;

	room = sq_entries - in_flight;
	if (in_flight > sq_entries)
		return LOOP_STOP;
	if (room > to_run)
		room = to_run;
	for (u32 i = 0; i < room && i < sq_entries; i++) {
		struct sqe *entry = (struct sqe *)sq + i;

		sqe_clear(entry);
		entry->opcode = OP_NOP;
		entry->user_data = TAG;
	}
	if (room) {
		int taken = bpf_io_uring_submit_sqes(ring, room);

		if (taken != (int)room)
			return LOOP_STOP;
		to_run -= room;
		in_flight += room;
	}
	if (DONE)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(nops, keep_busy);
