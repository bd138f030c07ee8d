// SPDX-License-Identifier: MIT
/*
 * Two classes of jobs, one job at a time: urgent ones first, but every fourth is one of the others as
 * long as there are some. Each job appends its letter to a file, which shows the order.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { EIO = 5, FAIR = 4 };

/* The twin (twin.bpf.c) submits more entries than it has filled. */
#ifndef ENTRIES
#define ENTRIES 1
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

struct class {
	u64 letters; /* address of one for each job */
	u32 waiting;
	u32 taken;
};

/* And before it enters: a file, and both classes. The host may add to `waiting` meanwhile. */
s32 file;
struct class urgent, other;

u32 done;
s32 error;
u32 started;

/* The address of the next job's letter, 0 if nothing waits. */
INLINE u64 next(void)
{
	volatile struct class *from = (volatile struct class *)&urgent;

	if (other.taken < *(volatile u32 *)&other.waiting &&
	    (done % FAIR == FAIR - 1 || urgent.taken >= *(volatile u32 *)&urgent.waiting))
		from = (volatile struct class *)&other;
	if (from->taken >= from->waiting)
		return 0;
	return from->letters + from->taken++;
}

RING_STEP(schedule)
{
	struct sqe *entry = (struct sqe *)bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head;
	u64 letter;

	if (!entry || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (started && head == WORD(cq, CQ_TAIL_AT)) {
		params->cq_wait_idx = head + 1;
		return LOOP_CONTINUE;
	}
	if (started) {
		s32 res = cqe_at(cq, head, cq_entries)->res;

		WORD(cq, CQ_HEAD_AT) = ++head;
		if (res != 1) {
			error = res < 0 ? res : -EIO;
			return LOOP_STOP;
		}
		done++;
	}
	started = 1;
	letter = next();
	if (!letter)
		return LOOP_STOP;
	sqe_rw(entry, OP_WRITE, file, letter, 1, done, 0);
	if (bpf_io_uring_submit_sqes(ring, ENTRIES) != 1) {
		error = -EIO;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(scheduler, schedule);
