// SPDX-License-Identifier: MIT
/*
 * Reads a file with up to eight reads in flight, whichever is done first. A read that was cut short
 * goes on where it stopped; one that failed for now is tried again, some times.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) adds to the head as it was when the step began. */
#ifndef NEXT
#define NEXT (head + 1)
#endif

enum { BLOCK = 4096, SLOTS = 8, EINTR = 4, EAGAIN = 11, EIO = 5, ENOMEM = 12 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a descriptor with `size` bytes, user memory of a block for each slot, and how
   often a read may be tried again. */
s32 file;
u64 size;
u64 buffers;
u32 patience;

struct slot {
	u64 off;
	u32 len; /* what is still to be read, 0: the slot is free */
	u32 idle; /* nothing is in flight for it */
	u32 failures;
	u32 pad;
};

struct slot slots[SLOTS];
u64 next; /* offset of the next block */
u64 bytes;
s32 error; /* -errno of what could not be read */
u32 in_flight;
u32 most; /* in flight at once */
u32 retries;

INLINE void take(struct slot *slot, s32 res)
{
	slot->idle = 1;
	if (res > 0 && (u32)res <= slot->len) {
		slot->off += res;
		slot->len -= res;
		bytes += res;
		return;
	}
	if ((res == -EINTR || res == -EAGAIN || res == -ENOMEM) && slot->failures++ < patience) {
		retries++;
		return;
	}
	error = res < 0 ? res : -EIO; /* the file ends too early */
}

RING_STEP(read_all)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, SLOTS * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u32 first, head, tail, filled = 0;
	int taken;

	if (!sq || !cq)
		return LOOP_STOP;
	first = WORD(cq, CQ_HEAD_AT);
	tail = WORD(cq, CQ_TAIL_AT);
	head = first;
	for (u32 i = 0; i < SLOTS && head != tail; i++, head++) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & (cq_entries - 1));

		take(&slots[done->user_data & (SLOTS - 1)], done->res);
	}
	in_flight -= head - first;
	WORD(cq, CQ_HEAD_AT) = head;

	for (u32 i = 0; i < SLOTS && !error; i++) {
		struct slot *slot = &slots[i];
		struct sqe *entry = (struct sqe *)sq + (filled & (SLOTS - 1));

		if (!slot->len && next < size) {
			slot->off = next;
			slot->len = size - next < BLOCK ? size - next : BLOCK;
			slot->failures = 0;
			slot->idle = 1;
			next += slot->len;
		}
		if (!slot->len || !slot->idle)
			continue;
		sqe_clear(entry);
		entry->opcode = OP_READ;
		entry->fd = file;
		entry->off = slot->off;
		entry->addr = buffers + i * BLOCK + slot->off % BLOCK;
		entry->len = slot->len;
		entry->user_data = i;
		slot->idle = 0;
		filled++;
	}
	if (filled) {
		taken = bpf_io_uring_submit_sqes(ring, filled);
		if (taken != (int)filled) {
			error = taken < 0 ? taken : -EIO;
			return LOOP_STOP;
		}
		in_flight += filled;
		if (in_flight > most)
			most = in_flight;
	}
	if (!in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = NEXT;
	return LOOP_CONTINUE;
}

RING_OPS(reader, read_all);
