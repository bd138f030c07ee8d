// SPDX-License-Identifier: MIT
/*
 * What nobody has sent yet is asked for again after a while, and after twice as long each time it is
 * still not there. How long is in the MEM region, a timespec that the program writes.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { EINTR = 4, EAGAIN = 11, ENOMEM = 12, MSG_DONTWAIT = 0x40 };
enum { RECEIVED = 1, WAITED = 2 };

/* The twin (twin.bpf.c) goes on without saying until when it waits. */
#ifndef WAIT_FOR_THE_TIMER
#define WAIT_FOR_THE_TIMER params->cq_wait_idx = head + 1
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a socket, user memory for `len` bytes, the address of the MEM region, the
   first delay, and how often to try. */
s32 socket;
u64 buffer;
u32 len;
u64 timer;
u64 delay_ns;
u32 attempts;

u32 tried;
u64 waited_ns;
s32 result; /* of the last attempt */
u32 started;

struct timespec {
	s64 sec;
	s64 nsec;
};

RING_STEP(try)
{
	struct sqe *entry = (struct sqe *)bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	struct timespec *delay =
		(struct timespec *)bpf_io_uring_get_region(ring, REGION_MEM, sizeof(struct timespec));
	u32 head;
	u64 what = WAITED;

	if (!entry || !cq || !delay)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (started) {
		struct cqe *done = cqe_at(cq, head, cq_entries);

		if (head == WORD(cq, CQ_TAIL_AT)) { /* called too early */
			params->cq_wait_idx = head + 1;
			return LOOP_CONTINUE;
		}
		what = done->user_data;
		if (what == RECEIVED)
			result = done->res;
		WORD(cq, CQ_HEAD_AT) = ++head;
	}
	started = 1;
	if (what == RECEIVED) {
		if (result != -EINTR && result != -EAGAIN && result != -ENOMEM)
			return LOOP_STOP;
		if (tried >= attempts)
			return LOOP_STOP;
		delay->sec = delay_ns / 1000000000;
		delay->nsec = delay_ns % 1000000000;
		sqe_rw(entry, OP_TIMEOUT, -1, timer, 1, 0, WAITED);
		waited_ns += delay_ns;
		delay_ns *= 2;
		if (bpf_io_uring_submit_sqes(ring, 1) != 1)
			return LOOP_STOP;
		WAIT_FOR_THE_TIMER;
		return LOOP_CONTINUE;
	}
	sqe_rw(entry, OP_RECV, socket, buffer, len, 0, RECEIVED);
	entry->op_flags = MSG_DONTWAIT;
	tried++;
	if (bpf_io_uring_submit_sqes(ring, 1) != 1)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(patient, try);
