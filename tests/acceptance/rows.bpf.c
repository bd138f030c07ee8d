// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * One small program for each row of the table of extra checks (ABI note, section 4.6) that needs
 * one. What a program sees goes to out[0], out[1], ...; what it asks for comes from user memory.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(out, u64, 16, 0);

inline_always void put(u32 index, u64 value)
{
	u64 *cell = slot(&out, index);

	if (cell)
		*cell = value;
}

inline_always void count(u32 index)
{
	u64 *cell = slot(&out, index);

	if (cell)
		*cell += 1;
}

/* out[0] counts runs: the program to put behind a link. */
RING_PROG(count_run)
{
	count(0);
	return finish(ctx);
}

RING_PROG(emit_bad_cq)
{
	put(0, emit(ctx, 9, 1, 2, 3));
	return finish(ctx);
}

/* One more emit than CQ 1 has entries: how many worked, and what the last one said. */
RING_PROG(emit_129)
{
	u64 worked = 0;
	long answer = 0;

	for (int i = 0; i < 129; i++) {
		answer = emit(ctx, 1, i, i, 0);
		if (!answer)
			worked++;
	}
	put(0, worked);
	put(1, answer);
	return finish(ctx);
}

/* One more emit than the main CQ has entries. */
RING_PROG(emit_17_main)
{
	u64 worked = 0;

	for (int i = 0; i < 17; i++)
		if (!emit(ctx, 0, 100 + i, i, 0))
			worked++;
	put(0, worked);
	return finish(ctx);
}

/* flags and a negative result go through unchanged, out[2] as the program reads it back. */
RING_PROG(emit_verbatim)
{
	struct io_uring_cqe cqe;

	put(0, emit(ctx, 1, 0x1122334455667788, -5, 0x80000001));
	reap(ctx, 1, &cqe);
	put(1, cqe.user_data);
	put(2, (s64)cqe.res);
	put(3, cqe.flags);
	emit(ctx, 0, cqe.user_data, cqe.res, cqe.flags);
	return finish(ctx);
}

/* `out` of a failed reap is zeroed, whatever it held. */
inline_always void reap_into(struct io_uring_bpf_ctx *ctx, u32 cq, u32 bytes)
{
	u64 room[8];

	for (int i = 0; i < 8; i++)
		room[i] = ~0ULL;
	put(0, reap_bytes(ctx, cq, room, bytes));
	put(1, room[0]);
	put(2, room[1]);
	put(3, room[2]);
}

RING_PROG(reap_empty)
{
	reap_into(ctx, 1, 16);
	return finish(ctx);
}

RING_PROG(reap_bad_cq)
{
	reap_into(ctx, 9, 16);
	return finish(ctx);
}

RING_PROG(reap_len_32)
{
	emit(ctx, 1, 77, 7, 0);
	reap_into(ctx, 1, 32);
	return finish(ctx);
}

RING_PROG(failed_reap_stored)
{
	struct io_uring_cqe cqe;
	long answer = reap(ctx, 1, &cqe);

	put(0, answer ? answer : cqe.user_data);
	return finish(ctx);
}

RING_PROG(wait_bad_cq)
{
	count(0);
	return wait_for(ctx, 9, 1);
}

/* Asks to be run again without saying for what (v3), or simply ends (before). */
RING_PROG(wait_for_none)
{
	count(0);
	return wait_for(ctx, 1, 0);
}

RING_PROG(nop_then_reap)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP, .user_data = 8, .cq_idx = 1 };
	struct io_uring_cqe cqe;

	put(0, submit(ctx, &nop));
	put(1, reap(ctx, 1, &cqe));
	return finish(ctx);
}

/* The 33rd inline completion pushes 32 out of the deferral: out[1] is what a reap then sees. */
RING_PROG(nops_33_then_reap)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP, .cq_idx = 1 };
	struct io_uring_cqe cqe;

	for (int i = 0; i < 33; i++) {
		nop.user_data = 1000 + i;
		submit(ctx, &nop);
	}
	put(0, reap(ctx, 1, &cqe));
	put(1, cqe.user_data);
	return finish(ctx);
}

RING_PROG(submit_len_63)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP, .user_data = 8, .cq_idx = 1 };

	put(0, submit_bytes(ctx, &nop, 63));
	return finish(ctx);
}

/* Submits the 64 bytes at user_data (when user_data is not 0) and keeps the answer in out[0]. */
RING_PROG(submit_user_sqe)
{
	u64 sqe[8] = {};

	copy_from_user(sqe, sizeof(sqe), (void *)ctx->user_data);
	put(0, submit_bytes(ctx, sqe, sizeof(sqe)));
	count(1);
	return finish(ctx);
}

/* A chain NOP -> bad opcode -> NOP, built in one run: out[0..2] are the answers. */
RING_PROG(bad_sqe_in_chain)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	sqe.user_data = 1;
	put(0, submit(ctx, &sqe));
	sqe.opcode = 244;
	sqe.user_data = 2;
	put(1, submit(ctx, &sqe));
	sqe.opcode = OP_NOP;
	sqe.flags = 0;
	sqe.user_data = 3;
	put(2, submit(ctx, &sqe));
	return finish(ctx);
}

/* A read of user memory that is not there zero-fills; a write to it says -EFAULT. */
RING_PROG(user_fault)
{
	u64 word = ~0ULL;

	put(0, copy_from_user(&word, sizeof(word), (void *)8));
	put(1, word);
	put(2, copy_to_user((void *)8, &word, sizeof(word)));
	return finish(ctx);
}

/* wait_nr as it is at the start of each of two runs: zero again (v2), or kept (v3). */
RING_PROG(ctx_between_runs)
{
	u64 *runs = slot(&out, 0);

	if (!runs)
		return finish(ctx);
	*runs += 1;
	if (*runs > 1) {
		put(1, ctx->wait_nr);
		put(2, ctx->wait_idx);
		return finish(ctx);
	}
	emit(ctx, 1, 1, 0, 0);
	return wait_for(ctx, 1, 1);
}

/* Submits the program in slot `user_data` (itself, to never end) and finishes. */
RING_PROG(resubmit)
{
	struct io_uring_sqe again = {
		.opcode = OP_BPF,
		.off = ctx->user_data,
		.user_data = ctx->user_data,
		.cq_idx = 2,
	};

	count(0);
	submit(ctx, &again);
	return finish(ctx);
}

/* Waits for a completion that nobody will post. */
RING_PROG(wait_for_nothing)
{
	count(0);
	return wait_for(ctx, 1, 1);
}

/* Waits for a completion that is there, and leaves it there. */
RING_PROG(wait_without_reaping)
{
	u64 *runs = slot(&out, 0);

	if (!runs)
		return finish(ctx);
	if (!*runs)
		emit(ctx, 1, 1, 0, 0);
	*runs += 1;
	return wait_for(ctx, 1, 1);
}
