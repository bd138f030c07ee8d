// SPDX-License-Identifier: MIT
/* An accept loop: one accept that stays, a greeting and a close for each connection, until so many clients came. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* Without a completion of it to come there is no accept; the twin (twin.bpf.c) asks again after each. */
#ifndef IS_OVER
#define IS_OVER(flags) (!((flags) & CQE_F_MORE))
#endif

enum { ACCEPT_MULTISHOT = 1, CANCEL_ALL = 1, CQE_F_MORE = 2, HARDLINK = 1 << 3 };
enum { ACCEPTED = 1, SENT = 2, CLOSED = 3, CANCELED = 4 };
enum { EIO = 5, ECONNABORTED = 103, ECANCELED = 125 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a listening socket, what to say, and to how many. */
s32 listener;
u64 greeting;
u32 greeting_bytes;
u32 clients;

u32 armed;     /* accepts that were submitted: one, unless it ended */
u32 accepting; /* there is one */
u32 accepted, greeted, closed;
u32 refused;   /* came when there were enough */
u32 aborted;   /* had gone before they were accepted */
u32 in_flight; /* requests of which a completion is still to come */
u32 stopping;
s32 error; /* -errno of an accept, or of submitting */

INLINE void ask(struct sqe *entry, u8 opcode, s32 fd, u64 user_data)
{
	sqe_clear(entry);
	entry->opcode = opcode;
	entry->fd = fd;
	entry->user_data = user_data;
}

/* A connection is closed even where the greeting can not be sent: how many entries that takes. */
INLINE u32 greet(struct sqe *entry, s32 fd)
{
	if (accepted == clients) {
		refused++;
		ask(entry, OP_CLOSE, fd, CLOSED);
		return 1;
	}
	accepted++;
	ask(entry, OP_SEND, fd, SENT);
	entry->flags = HARDLINK;
	entry->addr = greeting;
	entry->len = greeting_bytes;
	ask(entry + 1, OP_CLOSE, fd, CLOSED);
	return 2;
}

/* The accept that stays, or, when enough clients came, its end. */
INLINE u32 listen_or_stop(struct sqe *entry)
{
	int enough = accepted == clients || error;

	if (enough && !stopping) {
		stopping = 1;
		ask(entry, OP_ASYNC_CANCEL, -1, CANCELED);
		entry->addr = ACCEPTED;
		entry->op_flags = CANCEL_ALL;
		return 1;
	}
	if (enough || accepting)
		return 0;
	accepting = 1;
	armed++;
	ask(entry, OP_ACCEPT, listener, ACCEPTED);
	entry->ioprio = ACCEPT_MULTISHOT;
	return 1;
}

RING_STEP(greeter)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, 3 * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	struct sqe *entry;
	u32 head, filled = 0;

	if (!sq || !cq)
		return LOOP_STOP;
	entry = (struct sqe *)sq;
	head = WORD(cq, CQ_HEAD_AT);
	if (head != WORD(cq, CQ_TAIL_AT)) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (cq_entries - 1));
		u64 what = done->user_data;
		u32 flags = done->flags;
		s32 res = done->res;

		WORD(cq, CQ_HEAD_AT) = ++head;
		in_flight -= !(flags & CQE_F_MORE);
		if (what == ACCEPTED) {
			if (IS_OVER(flags))
				accepting = 0;
			if (res >= 0)
				filled = greet(entry, res);
			else if (res == -ECONNABORTED)
				aborted++;
			else if (res != -ECANCELED)
				error = res;
		}
		greeted += what == SENT && res == (s32)greeting_bytes;
		closed += what == CLOSED;
	}
	filled += listen_or_stop(entry + filled);
	if (filled) {
		int taken = bpf_io_uring_submit_sqes(ring, filled);

		if (taken != (int)filled) {
			error = taken < 0 ? taken : -EIO;
			return LOOP_STOP;
		}
		in_flight += filled;
	}
	if (!in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(server, greeter);
