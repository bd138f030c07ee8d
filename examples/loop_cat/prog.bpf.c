// SPDX-License-Identifier: MIT
/*
 * Files by their paths, one after the other, into one descriptor. What was read is written completely
 * before more is read; a file that can not be opened or read is counted and passed over.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { PATHS = 8, BLOCK = 1024, EIO = 5, AT_FDCWD = -100 };
enum { OPENED = 1, READ_DONE = 2, WRITTEN = 3, CLOSED = 4 };

/* The twin (twin.bpf.c) writes as much as it asked for. */
#ifndef GOT
#define GOT res
#endif

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: the addresses of paths, how many there are, where to write, and user memory
   for a block. */
u64 paths[PATHS];
u32 count;
s32 out;
u64 buffer;

u32 current; /* the file of this number */
s32 file;
u64 from;     /* what was read of it */
u64 to;       /* and written to `out`, of all files */
u32 used, written; /* of the block */
u32 failed;   /* files that could not be read */
u32 started;
s32 error;    /* -errno of a write */

/* What comes after `what` ended with `res`; whether anything does. */
INLINE int go_on(struct sqe *entry, u64 what, s32 res)
{
	if (what == OPENED && res >= 0) {
		file = res;
		from = 0;
	}
	if (what == READ_DONE && res > 0) {
		from += res;
		used = GOT;
		written = 0;
	}
	if (what == WRITTEN) {
		if (res <= 0) {
			error = res ? res : -EIO;
			return 0;
		}
		to += res;
		written += res;
	}
	if (what == READ_DONE && res < 0)
		failed++;
	if (what == READ_DONE && res <= 0) {
		sqe_rw(entry, OP_CLOSE, file, 0, 0, 0, CLOSED);
		return 1;
	}
	if (what == CLOSED || (what == OPENED && res < 0)) {
		failed += what == OPENED;
		current++;
	}
	if (what == CLOSED || (what == OPENED && res < 0) || !what) {
		u32 number = current;

		if (number >= count || number >= PATHS)
			return 0;
		sqe_rw(entry, OP_OPENAT, AT_FDCWD, paths[number], 0, 0, OPENED);
	} else if (what == OPENED || written >= used) {
		sqe_rw(entry, OP_READ, file, buffer, BLOCK, from, READ_DONE);
	} else {
		sqe_rw(entry, OP_WRITE, out, buffer + written, used - written, to, WRITTEN);
	}
	return 1;
}

RING_STEP(cat)
{
	struct sqe *entry = (struct sqe *)bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head;
	u64 what = 0;
	s32 res = 0;

	if (!entry || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (started && head == WORD(cq, CQ_TAIL_AT)) {
		params->cq_wait_idx = head + 1;
		return LOOP_CONTINUE;
	}
	if (started) {
		struct cqe *done = cqe_at(cq, head, cq_entries);

		what = done->user_data;
		res = done->res;
		WORD(cq, CQ_HEAD_AT) = ++head;
	}
	started = 1;
	if (!go_on(entry, what, res))
		return LOOP_STOP;
	if (bpf_io_uring_submit_sqes(ring, 1) != 1) {
		error = -EIO;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(cats, cat);
