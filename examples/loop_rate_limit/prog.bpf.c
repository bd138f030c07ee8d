// SPDX-License-Identifier: MIT
/*
 * At most so many jobs in a window of time: each job writes a byte, and when a window's are used up
 * the next ones wait for the timer that ends it.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { JOB = 1, TIMER = 2, EIO = 5, BURST_MAX = 8 };

/* The twin (twin.bpf.c) takes for granted that all of them were submitted. */
#ifndef SUBMITTED
#define SUBMITTED (bpf_io_uring_submit_sqes(ring, filled) == (int)filled)
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a file, user memory with a byte for each job, the window's timespec, how many
   jobs there are and how many may begin in a window. */
s32 file;
u64 bytes;
u64 window;
u32 jobs;
u32 burst;

u32 begun, done;
u32 windows; /* that have begun */
u32 left;    /* jobs that may still begin in this one */
u32 timed;   /* its timer is in flight */
u32 in_flight;
s32 error;

RING_STEP(limit)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, 8 * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head, tail, filled = 0;

	if (!sq || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	for (u32 i = 0; i < 16 && head != tail; i++, head++) {
		struct cqe *cqe = cqe_at(cq, head, cq_entries);

		in_flight--;
		if (cqe->user_data == TIMER)
			timed = 0;
		else if (cqe->res == 1)
			done++;
		else
			error = cqe->res < 0 ? cqe->res : -EIO;
	}
	WORD(cq, CQ_HEAD_AT) = head;

	if (begun < jobs && !timed && !error) {
		/* Seven and a timer fit into the SQ. */
		left = burst < BURST_MAX ? burst : BURST_MAX - 1;
		windows++;
		timed = 1;
		sqe_rw((struct sqe *)sq, OP_TIMEOUT, -1, window, 1, 0, TIMER);
		filled = 1;
		for (u32 i = 0; i < BURST_MAX - 1 && left && begun < jobs; i++, left--, begun++) {
			sqe_rw((struct sqe *)sq + filled, OP_WRITE, file, bytes + begun, 1, begun, JOB);
			filled++;
		}
	}
	if (filled) {
		if (!SUBMITTED) {
			error = -EIO;
			return LOOP_STOP;
		}
		in_flight += filled;
	}
	if (!in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(limiter, limit);
