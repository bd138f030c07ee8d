// SPDX-License-Identifier: MIT
/*
 * Carries two sockets each to the other, whatever piece comes, until both have ended. What was
 * received is sent completely before more is received; the end of one stream ends the other one's
 * sending side.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { BUFFER = 1024, EIO = 5, SHUT_WR = 1 };
enum { RECEIVED = 0, SENT = 1, ENDED = 2 };

/* The twin (twin.bpf.c) writes the wrong one of two neighbours. */
#ifndef TAKEN_AT
#define TAKEN_AT CQ_HEAD_AT
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: two sockets, and user memory of a buffer for each direction. */
s32 sockets[2];
u64 buffers;

struct direction {
	u32 from, to; /* what of the buffer is still to be sent */
	u32 carried;
	u32 ended;
};

struct direction directions[2]; /* from this socket to the other */
u32 started;
s32 error;

/* What comes next for a direction, after `what` ended with `res`; whether anything does. */
INLINE int go_on(struct sqe *entry, u32 side, u8 what, s32 res)
{
	struct direction *one = &directions[side & 1];
	u64 buffer = buffers + side * BUFFER;
	s32 in = sockets[side & 1], out = sockets[(side & 1) ^ 1];
	u64 mark = side << 8;

	if (what == ENDED) {
		one->ended = 1;
		return 0;
	}
	if (what == RECEIVED) {
		one->from = 0;
		one->to = res;
	} else {
		one->from += res;
		one->carried += res;
	}
	if (what == RECEIVED && !res)
		sqe_rw(entry, OP_SHUTDOWN, out, 0, SHUT_WR, 0, mark | ENDED);
	else if (one->from < one->to)
		sqe_rw(entry, OP_SEND, out, buffer + one->from, one->to - one->from, 0, mark | SENT);
	else
		sqe_rw(entry, OP_RECV, in, buffer, BUFFER, 0, mark | RECEIVED);
	return 1;
}

RING_STEP(carry)
{
	struct sqe *entries =
		(struct sqe *)bpf_io_uring_get_region(ring, REGION_SQ, 2 * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head, filled = 0;

	if (!entries || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (!started) {
		started = 1;
		for (u32 side = 0; side < 2; side++)
			sqe_rw(entries + side, OP_RECV, sockets[side], buffers + side * BUFFER, BUFFER, 0,
			       side << 8 | RECEIVED);
		filled = 2;
	} else if (head != WORD(cq, CQ_TAIL_AT)) {
		struct cqe *done = cqe_at(cq, head, cq_entries);
		u64 what = done->user_data;
		s32 res = done->res;

		WORD(cq, TAKEN_AT) = ++head;
		if (res < 0) {
			error = res;
			return LOOP_STOP;
		}
		filled = go_on(entries, what >> 8 & 1, what & 3, res);
	}
	if (filled && bpf_io_uring_submit_sqes(ring, filled) != (int)filled) {
		error = -EIO;
		return LOOP_STOP;
	}
	if (directions[0].ended && directions[1].ended)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(proxy, carry);
