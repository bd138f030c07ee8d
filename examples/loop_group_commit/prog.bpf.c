// SPDX-License-Identifier: MIT
/*
 * Records are appended to a log, up to four at once, and one fsync is for all of them. Only then are
 * they committed; what comes meanwhile is in the next group.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) has groups of one. */
#ifndef GROUP
#define GROUP 4
#endif

enum { RECORD = 16, EIO = 5 };
enum { WRITTEN = 1, SYNCED = 2 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a file, user memory with the records, and how many there are. */
s32 file;
u64 records;
u32 count;

u32 written;   /* records that are in the file */
u32 committed; /* and that will be there after a crash */
u32 group;     /* records of the current group */
u32 ready;     /* how many of them have been written */
u32 syncs;
u32 started;
s32 error;

RING_STEP(commit)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, GROUP * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 head, tail, filled = 0;

	if (!sq || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	for (u32 i = 0; i < GROUP && head != tail; i++, head++) {
		struct cqe *done = cqe_at(cq, head, cq_entries);
		s32 res = done->res;
		u64 what = done->user_data;

		if (res != (what == WRITTEN ? RECORD : 0)) {
			if (!error)
				error = res < 0 ? res : -EIO;
			continue;
		}
		if (what == WRITTEN) {
			written++;
			ready++;
		}
		if (what == SYNCED) {
			committed = written;
			group = ready = 0;
		}
	}
	WORD(cq, CQ_HEAD_AT) = head;

	if (error)
		return LOOP_STOP;
	if (group && ready == group) { /* all are written: one fsync for them */
		sqe_rw((struct sqe *)sq, OP_FSYNC, file, 0, 0, 0, SYNCED);
		ready = 0;
		syncs++;
		filled = 1;
	} else if (!group && written < count) {
		for (u32 i = 0; i < GROUP && written + i < count; i++) {
			u64 at = (u64)(written + i) * RECORD;

			sqe_rw((struct sqe *)sq + i, OP_WRITE, file, records + at, RECORD, at, WRITTEN);
			filled++;
		}
		group = filled;
	} else if (!group) {
		return LOOP_STOP; /* everything is committed */
	}
	if (filled && bpf_io_uring_submit_sqes(ring, filled) != (int)filled) {
		error = -EIO;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(committer, commit);
