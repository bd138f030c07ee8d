// SPDX-License-Identifier: MIT
/* Copies a file, one request at a time: each completion says what the next request is. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) writes what the buffer holds, whatever was read. */
#ifndef HAVE
#define HAVE res
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: two descriptors, and user memory for what is on its way. */
s32 from, to;
u64 buffer;
u32 buffer_bytes;

u64 copied;
s32 error; /* -errno of the request that failed */
u32 started;

enum { READ_DONE = 1, WRITE_DONE = 2 };

INLINE int next(struct iou_ctx *ring, u8 *sq, u8 opcode, s32 fd, u32 len, u64 user_data)
{
	struct sqe *entry = (struct sqe *)sq;

	sqe_clear(entry);
	entry->opcode = opcode;
	entry->fd = fd;
	entry->off = copied;
	entry->addr = buffer;
	entry->len = len;
	entry->user_data = user_data;
	return bpf_io_uring_submit_sqes(ring, 1) == 1;
}

RING_STEP(copy)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head;

	if (!sq || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (!started) {
		started = 1;
		if (!next(ring, sq, OP_READ, from, buffer_bytes, READ_DONE))
			return LOOP_STOP;
	} else if (head != WORD(cq, CQ_TAIL_AT)) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (cq_entries - 1));
		u64 what = done->user_data;
		s32 res = done->res;

		WORD(cq, CQ_HEAD_AT) = ++head;
		if (res < 0) {
			error = res;
			return LOOP_STOP;
		}
		if (what == READ_DONE) {
			if (!res) /* the end of the file */
				return LOOP_STOP;
			if (!next(ring, sq, OP_WRITE, to, HAVE, WRITE_DONE))
				return LOOP_STOP;
		} else {
			copied += res; /* a short write is read again from there */
			if (!next(ring, sq, OP_READ, from, buffer_bytes, READ_DONE))
				return LOOP_STOP;
		}
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(copier, copy);
