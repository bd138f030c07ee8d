// SPDX-License-Identifier: MIT
/*
 * Programs that drive a ring from inside io_uring_enter: what the native loop does must not differ
 * from what Python does. `scripted` does what the MEM region says, hostile things included; `shows`
 * does that, too, and looks into the ring.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

const volatile u32 sq_entries = 8;

#define PAGE 4096
#define OPS 512
#define LOG 2048
#define MOST 64

enum what { END, PUT, SUBMIT, POKE_CQ, POKE_SQ, PEEK_CQ, REAP, WAIT, ANSWER, SHOW };
enum from { HEAD, TAIL, ZERO };

struct op {
	u32 what, a, b, c;
	struct sqe sqe;
};

struct mem {
	struct op ops[OPS];
	u64 log[LOG];
};

u32 at;	   /* the next op */
u32 logged; /* of `log` */
u32 steps;
u32 depth, left; /* of `nops` */
u32 in_flight;
u64 reaped;
u32 turns; /* of `idles` and `spends` */

u32 opcode, flags; /* of `transfers` */
s32 fd, result;
u64 buffer;
u32 found; /* whether it has got a MEM region; by `keeps`: what is there */
u64 address;

struct shown { /* by Linux 7.1 */
	u8 before[40];
	u32 clockid;
	u8 between[8];
	u32 sq_thread_idle;
	u8 before_sq[56];
	u32 cached_sq_head, sq_entries;
	u8 before_cq[408];
	u32 cached_cq_tail, cq_entries;
};

struct kept {
	struct iou_loop_params __attribute__((btf_type_tag("kptr_untrusted"))) *params;
};
struct {
	int (*type)[2]; /* an array */
	int (*max_entries)[1];
	u32 *key;
	struct kept *value;
} pointers SEC(".maps");
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) =
	(void *)2;

INLINE void note(struct mem *mem, u64 value)
{
	mem->log[logged++ & (LOG - 1)] = value;
}

INLINE int play(struct iou_ctx *ring, struct iou_loop_params *params, u32 looks)
{
	struct mem *mem = (void *)bpf_io_uring_get_region(ring, REGION_MEM, sizeof(struct mem));
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, PAGE);
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sq_entries * sizeof(struct sqe));

	steps++;
	if (!mem || !cq || !sq)
		return LOOP_STOP;
	note(mem, params->cq_wait_idx);
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < MOST; turn++) {
		struct op *op = &mem->ops[at & (OPS - 1)];
		u32 what = op->what, a = op->a, b = op->b;

		if (what == END)
			return LOOP_STOP;
		at++;
		if (what == PUT) {
			struct sqe *entry = (struct sqe *)sq + (a & (sq_entries - 1));

			*entry = op->sqe;
		} else if (what == SUBMIT) {
			note(mem, (u32)bpf_io_uring_submit_sqes(ring, a));
			note(mem, (u64)WORD(cq, CQ_TAIL_AT) << 32 | WORD(cq, SQ_HEAD_AT));
		} else if (what == POKE_CQ) {
			u32 old = WORD(cq, a & (PAGE - 4));

			WORD(cq, a & (PAGE - 4)) = op->c ? old + b : b;
		} else if (what == POKE_SQ) {
			WORD(sq, a & (sq_entries * (u32)sizeof(struct sqe) - 4)) = b;
		} else if (what == PEEK_CQ) {
			note(mem, WORD(cq, a & (PAGE - 4)));
		} else if (what == REAP) {
			u32 head = WORD(cq, CQ_HEAD_AT), tail = WORD(cq, CQ_TAIL_AT);

			if (head != tail) {
				u32 place = CQES_AT + (head & b) * sizeof(struct cqe);
				struct cqe *cqe = (struct cqe *)(cq + (place & (PAGE - 16)));

				note(mem, cqe->user_data);
				note(mem, (u64)(u32)cqe->res << 32 | cqe->flags);
				WORD(cq, CQ_HEAD_AT) = head + 1;
				if (--op->a) /* so many of them */
					at--;
			}
		} else if (what == WAIT) {
			u32 from = a == HEAD ? WORD(cq, CQ_HEAD_AT) : a == TAIL ? WORD(cq, CQ_TAIL_AT) : 0;

			params->cq_wait_idx = from + b;
			return LOOP_CONTINUE;
		} else if (looks && what == SHOW) {
			struct shown *shown = (struct shown *)ring;

			note(mem, (u64)shown->cached_cq_tail << 32 | shown->cached_sq_head);
			note(mem, (u64)shown->clockid << 32 | shown->sq_thread_idle);
		} else {
			return a;
		}
	}
	return LOOP_CONTINUE;
}

RING_STEP(scripted)
{
	return play(ring, params, 0);
}

/* Linux 7.1 lets programs look into the ring. */
RING_STEP(shows)
{
	return play(ring, params, 1);
}

/* `depth` NOPs at a time, until `left` of them are through. */
INLINE int some_nops(struct iou_ctx *ring, struct iou_loop_params *params, u32 depth)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ,
							 sq_entries * sizeof(struct sqe));
	u32 head, count;

	steps++;
	if (!cq || !sq)
		return LOOP_STOP;
	head = WORD(cq, CQ_TAIL_AT);
	count = head - WORD(cq, CQ_HEAD_AT);
	WORD(cq, CQ_HEAD_AT) = head;
	reaped += count;
	in_flight -= count;
	if (!left)
		return LOOP_STOP;
	count = left < depth ? left : depth;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < count && turn < sq_entries; turn++)
		sqe_clear(&sq[turn]);
	count = bpf_io_uring_submit_sqes(ring, count);
	left -= count;
	in_flight += count;
	params->cq_wait_idx = head + count;
	return LOOP_CONTINUE;
}

RING_STEP(nops)
{
	return some_nops(ring, params, depth);
}

/* As many at a time as the SQ has entries, by 7.1. */
RING_STEP(looks)
{
	return some_nops(ring, params, ((struct shown *)ring)->sq_entries);
}

/*
 * Kernels let programs keep a pointer and look through it later, whatever has become of it: they
 * catch the fault, and do not let a program put `address` in its place.
 */
RING_STEP(keeps)
{
	struct kept forged = {(void *)address}, *kept;
	u32 key = 0;

	steps++;
	if (address)
		bpf_map_update_elem(&pointers, &key, &forged, 0);
	kept = bpf_map_lookup_elem(&pointers, &key);
	if (!kept || steps > 3)
		return LOOP_STOP;
	if (kept->params)
		found = kept->params->cq_wait_idx;
	else
		kept->params = params;
	return LOOP_CONTINUE;
}

/* Nothing changes, but for a CQE that it takes or gives back now and then. */
RING_STEP(idles)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQES_AT);

	steps++;
	if (!cq)
		return LOOP_STOP;
	if (turns && steps < 1000 && steps % turns == 0)
		WORD(cq, CQ_HEAD_AT) ^= 1;
	return LOOP_CONTINUE;
}

/* Each run executes more than the one before it. */
RING_STEP(spends)
{
	u32 sum = 0;

	steps++;
#pragma clang loop unroll(disable)
	for (u32 turn = 0; turn < 4096 && turn < steps * turns; turn++)
		sum += turn;
	reaped += sum;
	return steps < 1000 ? LOOP_CONTINUE : LOOP_STOP;
}

/* One transfer of 8 bytes at a time, for ever, until one fails. */
RING_STEP(transfers)
{
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, PAGE);
	struct sqe *sq = (void *)bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));
	u32 head;

	steps++;
	if (!cq || !sq)
		return LOOP_STOP;
	found = bpf_io_uring_get_region(ring, REGION_MEM, 8) != 0;
	head = WORD(cq, CQ_HEAD_AT);
	if (head != WORD(cq, CQ_TAIL_AT)) {
		u32 place = CQES_AT + (head & 15) * sizeof(struct cqe);

		result = ((struct cqe *)(cq + (place & (PAGE - 16))))->res;
		reaped++;
		in_flight--;
		WORD(cq, CQ_HEAD_AT) = ++head;
		if (result < 0)
			return LOOP_STOP;
	}
	if (!in_flight) {
		sqe_clear(sq);
		sq->opcode = opcode;
		sq->flags = flags;
		sq->fd = fd;
		sq->addr = buffer;
		sq->len = 8;
		in_flight += bpf_io_uring_submit_sqes(ring, 1);
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

RING_OPS(scripted_ops, scripted);
RING_OPS(shows_ops, shows);
RING_OPS(nops_ops, nops);
RING_OPS(looks_ops, looks);
RING_OPS(keeps_ops, keeps);
RING_OPS(idles_ops, idles);
RING_OPS(spends_ops, spends);
RING_OPS(transfers_ops, transfers);
