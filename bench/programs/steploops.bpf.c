/* SPDX-License-Identifier: MIT */
/* The programs of ringloops.c from inside io_uring_enter: loop_step on a ring with SQ_REWIND. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

#define MOST_DEPTH 32
#define BLOCK 4096
#define CQ_ENTRIES 64
#define CQ_BYTES (CQES_AT + CQ_ENTRIES * sizeof(struct cqe))
#define SQ_BYTES (MOST_DEPTH * sizeof(struct sqe))

u32 depth, left; /* requests at a time, requests to do */
u64 buffer, size, at; /* of a copy: its size, and how far it is */
u32 block;
s32 from, to; /* from < 0: NOPs */
u32 started;
u64 bad; /* CQEs that were not as they should be */

/* Takes as many CQEs as requests were submitted; the CQ's head then. */
INLINE u32 check(u8 *cq, u32 count, s32 wanted)
{
	u32 head = WORD(cq, CQ_HEAD_AT), tail = WORD(cq, CQ_TAIL_AT);

	if (tail - head != count)
		bad++;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && head != tail; turn++, head++) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (CQ_ENTRIES - 1));

		if (done->res != wanted)
			bad++;
	}
	WORD(cq, CQ_HEAD_AT) = head;
	return head;
}

RING_STEP(requests)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ, SQ_BYTES);
	u32 head, count = depth;
	u64 to_buffer = buffer;
	s32 file = from;

	if (!cq || !sq)
		return LOOP_STOP;
	head = check(cq, started, file < 0 ? 0 : BLOCK);
	if (left < count)
		return LOOP_STOP;
	left -= count;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && turn < count; turn++) {
		sqe_clear(&sq[turn]);
		sq[turn].user_data = turn;
		if (file >= 0) {
			sq[turn].opcode = OP_READ;
			sq[turn].fd = file;
			sq[turn].addr = to_buffer + (u64)turn * BLOCK;
			sq[turn].len = BLOCK;
		}
	}
	if (bpf_io_uring_submit_sqes(ring, count) != (int)count)
		bad++;
	started = count;
	params->cq_wait_idx = head + count;
	return LOOP_CONTINUE;
}

RING_STEP(copy)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ, SQ_BYTES);
	u32 head, count = depth, writes = started == 1;

	if (!cq || !sq)
		return LOOP_STOP;
	head = check(cq, started ? count : 0, block);
	if (started == 2)
		at += (u64)count * block;
	if (at >= size)
		return LOOP_STOP;
	started = writes ? 2 : 1;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST_DEPTH && turn < count; turn++) {
		sqe_clear(&sq[turn]);
		sq[turn].opcode = writes ? OP_WRITE : OP_READ;
		sq[turn].fd = writes ? to : from;
		sq[turn].off = at + (u64)turn * block;
		sq[turn].addr = buffer + (u64)turn * block;
		sq[turn].len = block;
		sq[turn].user_data = turn;
	}
	if (bpf_io_uring_submit_sqes(ring, count) != (int)count)
		bad++;
	params->cq_wait_idx = head + count;
	return LOOP_CONTINUE;
}

RING_OPS(requests_ops, requests);
RING_OPS(copy_ops, copy);
