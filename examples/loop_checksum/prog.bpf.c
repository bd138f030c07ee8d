// SPDX-License-Identifier: MIT
/*
 * The checksum of a file, its blocks read in any order into memory that the program sees: the ring's
 * MEM region, eight blocks of it. Each word is weighed by its place, so order does not matter.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) masks for a CQ of another size. */
#ifndef CQE_MASK
#define CQE_MASK (cq_entries - 1)
#endif

enum { BLOCK = 1024, SLOTS = 8, SHORT_READ = -5 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a descriptor with `size` bytes, and the address of the MEM region. */
s32 file;
u64 size;
u64 buffers;

u64 sum;
s32 error; /* -errno of the first request that failed */
u32 next;  /* block to read */
u32 busy;  /* a bit for each slot that a read fills */
u32 in_flight;

INLINE u64 bytes_of(u32 block)
{
	u64 left = size - (u64)block * BLOCK;

	return left < BLOCK ? left : BLOCK;
}

/* The first `len` bytes of a slot; behind them is what an earlier block left. */
INLINE void add(u8 *mem, u32 slot, u32 block, u32 len)
{
	u64 *words = (u64 *)(mem + slot * BLOCK);
	u64 place = (u64)block * (BLOCK / 8) + 1, part = 0;
	u32 i;

	for (i = 0; i < BLOCK / 8 && 8 * i + 8 <= len; i++)
		part += words[i] * (place + i);
	if (i < BLOCK / 8 && len & 7)
		part += (words[i] & ((1ULL << 8 * (len & 7)) - 1)) * (place + i);
	sum += part;
}

RING_STEP(reduce)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, SLOTS * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	u8 *mem = bpf_io_uring_get_region(ring, REGION_MEM, SLOTS * BLOCK);
	u32 head, filled = 0, more = 0;

	if (!sq || !cq || !mem)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (head != WORD(cq, CQ_TAIL_AT)) {
		struct cqe *done = (struct cqe *)(cq + CQES_AT) + (head & CQE_MASK);
		u64 what = done->user_data;
		s32 res = done->res;
		u32 slot = what & (SLOTS - 1), block = what >> 8;

		WORD(cq, CQ_HEAD_AT) = ++head;
		more = head != WORD(cq, CQ_TAIL_AT);
		in_flight--;
		busy &= ~(1 << slot);
		if (res < 0 || res != (s32)bytes_of(block)) {
			if (!error)
				error = res < 0 ? res : SHORT_READ;
		} else {
			add(mem, slot, block, res);
		}
	}
	/* What is there is added first, so that as many reads as can be go together. */
	for (u32 slot = 0; slot < SLOTS && !more && !error; slot++) {
		struct sqe *entry = (struct sqe *)sq + (filled & (SLOTS - 1));

		if (busy >> slot & 1 || (u64)next * BLOCK >= size)
			continue;
		sqe_clear(entry);
		entry->opcode = OP_READ;
		entry->fd = file;
		entry->off = (u64)next * BLOCK;
		entry->addr = buffers + slot * BLOCK;
		entry->len = bytes_of(next);
		entry->user_data = (u64)next << 8 | slot;
		busy |= 1 << slot;
		next++;
		filled++;
	}
	if (filled) {
		int taken = bpf_io_uring_submit_sqes(ring, filled);

		if (taken != (int)filled) {
			error = SHORT_READ;
			return LOOP_STOP;
		}
		in_flight += filled;
	}
	if (!in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(checksum, reduce);
