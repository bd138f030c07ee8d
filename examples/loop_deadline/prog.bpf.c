// SPDX-License-Identifier: MIT
/*
 * Waits until so many of four sockets have said something, but not beyond a deadline. What is still
 * in flight then is cancelled, again if it was just being tried and goes on waiting (-EALREADY), and
 * has ended when the enter returns.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { SOCKETS = 4, ROOM = 64, ETIME = 62, EALREADY = 114, EIO = 5 };
enum { DEADLINE = 100, CANCELLED = 200 };

/* The twin (twin.bpf.c) counts on all that it waits for. */
#ifndef NEXT
#define NEXT (head + 1)
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: sockets, user memory of ROOM bytes for each, a timespec, how many to wait
   for. */
s32 sockets[SOCKETS];
u64 buffers;
u64 deadline;
u32 wanted;

u32 lengths[SOCKETS]; /* what each has said */
u32 arrived;
u32 late; /* the deadline passed first */
u32 pending; /* a bit for each request that has not ended: sockets, then the deadline */
u32 again; /* the same bits: of those, which to cancel once more */
u32 started, ending;
u32 in_flight;
s32 error;

INLINE void take(u64 what, s32 res)
{
	in_flight--;
	if (what >= CANCELLED) {
		if (res == -EALREADY)
			again |= 1 << ((what - CANCELLED) & 7);
		return;
	}
	if (what == DEADLINE) {
		pending &= ~(1 << SOCKETS);
		late = res == -ETIME;
		return;
	}
	pending &= ~(1 << (what & (SOCKETS - 1)));
	if (res >= 0) {
		lengths[what & (SOCKETS - 1)] = res;
		arrived++;
	}
}

RING_STEP(wait_for)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, 8 * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	struct sqe *entries = (struct sqe *)sq;
	u32 head, tail, filled = 0;

	if (!sq || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	for (u32 i = 0; i < 16 && head != tail; i++, head++) {
		struct cqe *done = cqe_at(cq, head, cq_entries);

		take(done->user_data, done->res);
	}
	WORD(cq, CQ_HEAD_AT) = head;

	if (!started) {
		started = 1;
		pending = (1 << (SOCKETS + 1)) - 1;
		for (u32 i = 0; i < SOCKETS; i++)
			sqe_rw(entries + i, OP_RECV, sockets[i], buffers + i * ROOM, ROOM, 0, i);
		sqe_rw(entries + SOCKETS, OP_TIMEOUT, -1, deadline, 1, 0, DEADLINE);
		filled = SOCKETS + 1;
	} else {
		if (!ending && (arrived >= wanted || late)) {
			ending = 1;
			again = pending;
		}
		for (u32 i = 0; i <= SOCKETS; i++) {
			if (!((again & pending) >> i & 1))
				continue;
			sqe_rw(entries + (filled & 7), OP_ASYNC_CANCEL, -1, i < SOCKETS ? i : DEADLINE, 0, 0,
			       CANCELLED + i);
			filled++;
		}
		again = 0;
	}
	if (filled) {
		if (bpf_io_uring_submit_sqes(ring, filled) != (int)filled) {
			error = -EIO;
			return LOOP_STOP;
		}
		in_flight += filled;
	}
	if (!in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = NEXT;
	return LOOP_CONTINUE;
}

RING_OPS(waiter, wait_for);
