// SPDX-License-Identifier: MIT
/* An echo server for up to four connections at a time, until so many clients have been served. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) names a number of completions. */
#ifndef NEXT
#define NEXT (head + 1)
#endif

enum { SLOTS = 4, BUFFER = 1024, EIO = 5 };
enum { ACCEPTED = 1, RECEIVED = 2, SENT = 3, CLOSED = 4 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a listening socket, user memory of a buffer for each slot, and how many
   clients there will be. */
s32 listener;
u64 buffers;
u32 clients;

struct connection {
	s32 fd;
	u32 used;
	u32 from, to; /* what of the buffer is still to be sent */
};

struct connection connections[SLOTS];
u32 accepted, served, accepting;
u64 echoed;
s32 error; /* -errno of an accept, or of submitting */

INLINE void ask(struct sqe *entry, u8 opcode, s32 fd, u64 addr, u32 len, u32 slot, u8 what)
{
	sqe_clear(entry);
	entry->opcode = opcode;
	entry->fd = fd;
	entry->addr = addr;
	entry->len = len;
	entry->user_data = slot << 8 | what;
}

/* What comes next for a connection, after `what` ended with `res`. */
INLINE void go_on(struct sqe *entry, u32 slot, u8 what, s32 res)
{
	struct connection *one = &connections[slot];
	u64 buffer = buffers + slot * BUFFER;

	if (what == RECEIVED && res > 0) {
		one->from = 0;
		one->to = res;
	} else if (what == SENT && res > 0) {
		one->from += res;
		echoed += res;
	} else if (what != ACCEPTED) { /* the end of the stream, or an error */
		ask(entry, OP_CLOSE, one->fd, 0, 0, slot, CLOSED);
		return;
	}
	if (what != ACCEPTED && one->from < one->to)
		ask(entry, OP_SEND, one->fd, buffer + one->from, one->to - one->from, slot, SENT);
	else
		ask(entry, OP_RECV, one->fd, buffer, BUFFER, slot, RECEIVED);
}

RING_STEP(echo)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, 2 * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	struct sqe *entry;
	u32 head, filled = 0;

	if (!sq || !cq)
		return LOOP_STOP;
	entry = (struct sqe *)sq;
	head = WORD(cq, CQ_HEAD_AT);
	if (head != WORD(cq, CQ_TAIL_AT)) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (cq_entries - 1));
		u64 token = done->user_data;
		s32 res = done->res;
		u32 slot = token >> 8 & (SLOTS - 1);
		u8 what = token;

		WORD(cq, CQ_HEAD_AT) = ++head;
		if (what == ACCEPTED) {
			accepting = 0;
			if (res < 0) {
				error = res;
				return LOOP_STOP;
			}
			accepted++;
			connections[slot].fd = res;
		}
		if (what == CLOSED) {
			connections[slot].used = 0;
			served++;
		} else {
			go_on(entry, slot, what, res);
			filled = 1;
		}
	}
	for (u32 slot = 0; slot < SLOTS && !accepting && accepted < clients; slot++) {
		if (connections[slot].used)
			continue;
		connections[slot].used = 1;
		accepting = 1;
		ask(entry + filled, OP_ACCEPT, listener, 0, 0, slot, ACCEPTED);
		filled++;
		break;
	}
	if (filled) {
		int taken = bpf_io_uring_submit_sqes(ring, filled);

		if (taken != (int)filled) {
			error = taken < 0 ? taken : -EIO;
			return LOOP_STOP;
		}
	}
	if (served == clients)
		return LOOP_STOP;
	params->cq_wait_idx = NEXT;
	return LOOP_CONTINUE;
}

RING_OPS(server, echo);
