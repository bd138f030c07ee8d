/* SPDX-License-Identifier: MIT */
/* The programs of ringloops.c from inside io_uring_enter: loop_step on a ring with SQ_REWIND. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

#define MOST_DEPTH 32
#define BLOCK 4096
#define CQ_ENTRIES 64
#define CQ_BYTES (CQES_AT + CQ_ENTRIES * sizeof(struct cqe))
#define SQ_BYTES (MOST_DEPTH * sizeof(struct sqe))

struct job {
	u32 depth, left; /* requests at a time, requests to do */
	u64 buffer, size, at; /* of a copy: its size, and how far it is */
	u32 block;
	s32 from, to; /* from < 0: NOPs */
	u32 started;
	u64 bad; /* CQEs that were not as they should be */
} job;

/* Takes `count` CQEs, all there are; the CQ's head then. */
INLINE u32 take(u8 *cq, u32 count, s32 wanted)
{
	u32 head = WORD(cq, CQ_HEAD_AT), tail = WORD(cq, CQ_TAIL_AT);

	if (tail - head != count)
		job.bad++;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && head != tail; turn++, head++) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (CQ_ENTRIES - 1));

		if (done->res != wanted)
			job.bad++;
	}
	WORD(cq, CQ_HEAD_AT) = head;
	return head;
}

RING_STEP(requests)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ, SQ_BYTES);
	u32 head, count = job.depth;
	u64 buffer = job.buffer;
	s32 from = job.from;

	if (!cq || !sq)
		return LOOP_STOP;
	head = take(cq, job.started, from < 0 ? 0 : BLOCK);
	if (job.left < count)
		return LOOP_STOP;
	job.left -= count;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && turn < count; turn++) {
		struct sqe *sqe = &sq[turn];

		sqe_clear(sqe);
		sqe->user_data = turn;
		if (from >= 0) {
			sqe->opcode = OP_READ;
			sqe->fd = from;
			sqe->addr = buffer;
			sqe->len = BLOCK;
			buffer += BLOCK;
		}
	}
	if (bpf_io_uring_submit_sqes(ring, count) != (int)count)
		job.bad++;
	job.started = count;
	params->cq_wait_idx = head + count;
	return LOOP_CONTINUE;
}

RING_STEP(copy)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ, SQ_BYTES);
	u32 head, count = job.depth, block = job.block, writes = job.started == 1;
	u64 at, buffer = job.buffer;

	if (!cq || !sq)
		return LOOP_STOP;
	head = take(cq, job.started ? count : 0, block);
	if (job.started == 2)
		job.at += (u64)count * block;
	at = job.at;
	if (at >= job.size)
		return LOOP_STOP;
	job.started = writes ? 2 : 1;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && turn < count; turn++) {
		struct sqe *sqe = &sq[turn];

		sqe_clear(sqe);
		sqe->opcode = writes ? OP_WRITE : OP_READ;
		sqe->fd = writes ? job.to : job.from;
		sqe->off = at;
		sqe->addr = buffer;
		sqe->len = block;
		sqe->user_data = turn;
		at += block;
		buffer += block;
	}
	if (bpf_io_uring_submit_sqes(ring, count) != (int)count)
		job.bad++;
	params->cq_wait_idx = head + count;
	return LOOP_CONTINUE;
}

RING_OPS(requests_ops, requests);
RING_OPS(copy_ops, copy);
