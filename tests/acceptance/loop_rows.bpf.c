// SPDX-License-Identifier: MIT
/* What a ring with a loop does, row by row: abi/iouring-bpf-upstream, sections 1 to 3, 5.3 to 5.5, 5.9. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

const volatile u32 sq_entries = 8;
const volatile u32 cq_entries = 16;
const volatile u32 probe_size = 64;

u32 steps;
s32 answer;       /* what `answers` returns */
u32 wait_idx;     /* what `waits` waits for */
u32 wait_steps;   /* in so many steps */
u32 nr;           /* how many `submits` submits */
s32 submitted;    /* what it got */
u32 tail_after;   /* and the CQ's tail when that returned */
u32 seen[4];      /* the wait index that each step found */
u32 probe_id;
u32 found;        /* whether `probes` got a region */
u32 to_run;
u32 last_flags;   /* the SQ's flags when the CQ was last full */
u32 tails[8];     /* the CQ's tail as each step of `looks` found it */

#define SQ_FLAGS_AT 36
#define CQ_BYTES (CQES_AT + cq_entries * sizeof(struct cqe))

RING_STEP(stops)
{
	steps++;
	return LOOP_STOP;
}

RING_STEP(answers)
{
	steps++;
	return answer;
}

/* Submits what the host has put there, once; then waits. */
RING_STEP(waits)
{
	steps++;
	if (steps == 1 && nr)
		submitted = bpf_io_uring_submit_sqes(ring, nr);
	if (steps > wait_steps)
		return LOOP_STOP;
	params->cq_wait_idx = wait_idx;
	return LOOP_CONTINUE;
}

RING_STEP(submits)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);

	if (!cq)
		return LOOP_STOP;
	steps++;
	submitted = bpf_io_uring_submit_sqes(ring, nr);
	tail_after = WORD(cq, CQ_TAIL_AT); /* the region outlives the call */
	return LOOP_STOP;
}

/* An index half way round is behind the tail: no step waits. */
RING_STEP(remembers)
{
	seen[steps & 3] = params->cq_wait_idx;
	steps++;
	if (steps == 1)
		params->cq_wait_idx = 0x90000000;
	return steps & 1 ? LOOP_CONTINUE : LOOP_STOP;
}

RING_STEP(probes)
{
	u8 *region = bpf_io_uring_get_region(ring, probe_id, probe_size);

	steps++;
	found = region != 0;
	if (region)
		region[probe_size - 1] = 0;
	return LOOP_STOP;
}

/* A number in the memory of the host's, doubled. */
RING_STEP(doubles)
{
	u8 *mem = bpf_io_uring_get_region(ring, REGION_MEM, 8);

	if (!mem)
		return LOOP_STOP;
	steps++;
	WORD(mem, 4) = 2 * WORD(mem, 0);
	return LOOP_STOP;
}

/* One NOP a step until twice the CQ's size is submitted; only then are CQEs taken. */
RING_STEP(overflows)
{
	struct sqe *entry = (struct sqe *)bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	u32 head, tail;

	if (!entry || !cq)
		return LOOP_STOP;
	steps++;
	if (to_run) {
		sqe_clear(entry);
		to_run--;
		submitted = bpf_io_uring_submit_sqes(ring, 1);
		last_flags = WORD(cq, SQ_FLAGS_AT);
		return LOOP_CONTINUE;
	}
	head = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	if (head == tail)
		return LOOP_STOP;
	WORD(cq, CQ_HEAD_AT) = tail;
	return LOOP_CONTINUE;
}

/* Does nothing until `to_run` completions are there. */
RING_STEP(looks)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	u32 tail;

	if (!cq)
		return LOOP_STOP;
	tail = tails[steps & 7] = WORD(cq, CQ_TAIL_AT);
	steps++;
	return tail >= to_run || steps == 8 ? LOOP_STOP : LOOP_CONTINUE;
}

/* As examples/loop_nops, but through the SQ's tail: takes first, then submits. */
RING_STEP(by_tail)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sq_entries * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	u32 head, tail, room;

	if (!sq || !cq)
		return LOOP_STOP;
	steps++;
	head = WORD(cq, CQ_TAIL_AT); /* every CQE there is */
	WORD(cq, CQ_HEAD_AT) = head;

	room = to_run < sq_entries ? to_run : sq_entries;
	if (!room)
		return LOOP_STOP;
	tail = WORD(cq, SQ_TAIL_AT);
	for (u32 i = 0; i < room && i < sq_entries; i++, tail++) {
		struct sqe *entry = (struct sqe *)sq + (tail & (sq_entries - 1));

		sqe_clear(entry);
	}
	WORD(cq, SQ_TAIL_AT) = tail;
	submitted = bpf_io_uring_submit_sqes(ring, room);
	if (submitted != (s32)room)
		return LOOP_STOP;
	to_run -= room;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

/* Lets no more than `most` requests of the host's be in flight; shared with it as MEM. */
struct limiter {
	u32 in_flight;
	u32 most;
	u32 tail;
	u32 target;
	u32 waiting;
	u32 to_wait; /* set by the host: how many completions it wants */
	s32 error;
};

RING_STEP(limits)
{
	volatile struct limiter *own =
		(struct limiter *)bpf_io_uring_get_region(ring, REGION_MEM, sizeof(struct limiter));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	u32 tail, ready, room, left;

	if (!own || !cq)
		return LOOP_STOP;
	steps++;
	tail = WORD(cq, CQ_TAIL_AT);
	own->in_flight -= tail - own->tail;
	own->tail = tail;

	ready = WORD(cq, SQ_TAIL_AT) - WORD(cq, SQ_HEAD_AT);
	room = own->most - own->in_flight;
	if (room > ready)
		room = ready;
	if (room) {
		int taken = bpf_io_uring_submit_sqes(ring, room);

		if (taken < 0) {
			own->error = taken;
			return LOOP_STOP;
		}
		own->in_flight += taken;
	}
	if (own->to_wait) {
		own->target = WORD(cq, CQ_HEAD_AT) + own->to_wait;
		own->to_wait = 0;
		own->waiting = 1;
	}
	left = own->target - tail;
	if (!own->waiting || (s32)left <= 0) {
		own->waiting = 0;
		return LOOP_STOP;
	}
	params->cq_wait_idx = tail + (left < own->in_flight ? left : own->in_flight);
	return LOOP_CONTINUE;
}

RING_OPS(stop, stops);
RING_OPS(answer_ops, answers);
RING_OPS(wait, waits);
RING_OPS(submit, submits);
RING_OPS(remember, remembers);
RING_OPS(probe, probes);
RING_OPS(mem, doubles);
RING_OPS(overflow, overflows);
RING_OPS(look, looks);
RING_OPS(tail, by_tail);
RING_OPS(limit, limits);
SEC(".struct_ops.link") struct io_uring_bpf_ops empty = {};
