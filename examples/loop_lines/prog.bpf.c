// SPDX-License-Identifier: MIT
/*
 * Splits a stream into lines: where each begins and how long it is. Blocks are read into memory that
 * the program sees, the ring's MEM region, one after the other.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { BLOCK = 64, LINES = 16, EIO = 5, ENOSPC = 28 };

/* The twin (twin.bpf.c) never asks. */
#ifndef ROOM
#define ROOM (index < LINES)
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a descriptor to read, and the address of the MEM region. */
s32 stream;
u64 buffer;

struct line {
	u32 at;
	u32 length;
};

struct line lines[LINES];
/* Kept in memory from byte to byte: in registers the paths through a block would stay apart. */
volatile u32 count;
volatile u32 begin; /* where the current line began */
u32 taken; /* bytes read so far */
u32 started;
s32 error; /* -errno of a read, or of a line too many */

INLINE int line_ends(u32 at)
{
	u32 index = count;
	struct line *line;

	if (!ROOM) {
		error = -ENOSPC;
		return 0;
	}
	line = &lines[index];
	line->at = begin;
	line->length = at - begin;
	begin = at + 1;
	count = index + 1;
	return 1;
}

RING_STEP(split)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	volatile u8 *block = bpf_io_uring_get_region(ring, REGION_MEM, BLOCK);
	u32 head;

	if (!sq || !cq || !block)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (started && head == WORD(cq, CQ_TAIL_AT)) {
		params->cq_wait_idx = head + 1;
		return LOOP_CONTINUE;
	}
	if (started) {
		s32 res = cqe_at(cq, head, cq_entries)->res;

		WORD(cq, CQ_HEAD_AT) = ++head;
		if (res <= 0) {
			error = res;
			if (!res && begin < taken) /* the last line has no end */
				line_ends(taken);
			return LOOP_STOP;
		}
		for (u32 i = 0; i < BLOCK && i < (u32)res; i++)
			if (block[i] == '\n' && !line_ends(taken + i))
				return LOOP_STOP;
		taken += res;
	}
	started = 1;
	sqe_rw((struct sqe *)sq, OP_READ, stream, buffer, BLOCK, taken, 0);
	if (bpf_io_uring_submit_sqes(ring, 1) != 1) {
		error = -EIO;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(lines_of, split);
