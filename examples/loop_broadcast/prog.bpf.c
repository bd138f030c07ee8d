// SPDX-License-Identifier: MIT
/*
 * One stream to up to four receivers. Each piece gets a head with its number and length, which the
 * program writes before it in the ring's MEM region; the next piece is received when all have this
 * one. A receiver that is gone gets no more.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* The twin (twin.bpf.c) takes the region to be larger. */
#ifndef PIECE
#define PIECE 1024
#endif

enum { RECEIVERS = 4, EIO = 5, MSG_NOSIGNAL = 0x4000 };
enum { SOURCE = 100 };

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 cq_entries = 16;

/* And before it enters: a socket to receive from, those to send to, how many of these there are, and
   the address of the MEM region. */
s32 source;
s32 receivers[RECEIVERS];
u32 count;
u64 buffer;

struct head {
	u32 number; /* of the piece, from 0 */
	u32 length;
};

u32 sent[RECEIVERS]; /* of the current piece, head included */
u32 gone;            /* a bit for each receiver that gets no more */
u32 total;           /* bytes of the current piece */
u32 pieces;
u32 sending;         /* sends in flight */
u32 started;
s32 error;

INLINE void send_rest(struct sqe *entry, u32 one)
{
	sqe_rw(entry, OP_SEND, receivers[one], buffer + sent[one], total - sent[one], 0, one);
	entry->op_flags = MSG_NOSIGNAL;
	sending++;
}

RING_STEP(spread)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, RECEIVERS * sizeof(struct sqe));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT + cq_entries * sizeof(struct cqe));
	struct head *piece =
		(struct head *)bpf_io_uring_get_region(ring, REGION_MEM, sizeof(struct head) + PIECE);
	struct sqe *entries = (struct sqe *)sq;
	u32 head, filled = 0;

	if (!sq || !cq || !piece)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	if (started && head == WORD(cq, CQ_TAIL_AT)) {
		params->cq_wait_idx = head + 1;
		return LOOP_CONTINUE;
	}
	if (started) {
		struct cqe *done = cqe_at(cq, head, cq_entries);
		u64 what = done->user_data;
		s32 res = done->res;

		WORD(cq, CQ_HEAD_AT) = ++head;
		if (what == SOURCE) {
			if (res <= 0) {
				error = res;
				return LOOP_STOP;
			}
			piece->number = pieces++;
			piece->length = res;
			total = sizeof(struct head) + res;
			for (u32 i = 0; i < RECEIVERS && i < count; i++) {
				if (gone >> i & 1)
					continue;
				sent[i] = 0;
				send_rest(entries + (filled++ & (RECEIVERS - 1)), i);
			}
		} else {
			u32 one = what & (RECEIVERS - 1);

			sending--;
			if (res <= 0)
				gone |= 1 << one;
			else if ((sent[one] += res) < total)
				send_rest(entries + (filled++ & (RECEIVERS - 1)), one);
		}
	}
	if (!sending) { /* all have it: the buffer is free */
		started = 1;
		sqe_rw(entries, OP_RECV, source, buffer + sizeof(struct head), PIECE, 0, SOURCE);
		filled = 1;
	}
	if (filled && bpf_io_uring_submit_sqes(ring, filled) != (int)filled) {
		error = -EIO;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(broadcast, spread);
