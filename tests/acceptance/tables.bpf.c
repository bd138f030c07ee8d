// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The programs of the acceptance tables (ABI note, sections 4.1 to 4.4), written from the
 * tables: each store, reap and wait is one that a row speaks of.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(arr, u64, 256, 0);

inline_always u64 get(u32 index)
{
	u64 *cell = slot(&arr, index);

	return cell ? *cell : 0;
}

inline_always void put(u32 index, u64 value)
{
	u64 *cell = slot(&arr, index);

	if (cell)
		*cell = value;
}

/* 4.1: every helper once; the second run only sees that there was a first. */
RING_PROG(test)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP, .user_data = 2, .cq_idx = 0 };
	struct io_uring_cqe cqe;
	void *user = (void *)ctx->user_data;
	u32 secret = 0;

	if (get(10))
		return finish(ctx);
	put(10, 1);
	put(0, 11);

	emit(ctx, 0, 3, 13, 0);
	emit(ctx, 1, 4, 17, 0);
	emit(ctx, 1, 5, 19, 0);
	reap(ctx, 1, &cqe);
	put(1, cqe.user_data);
	reap(ctx, 1, &cqe);
	put(2, cqe.user_data);

	put(3, 20 + submit(ctx, &nop));

	put(4, ctx->user_data);
	copy_from_user(&secret, sizeof(secret), user);
	put(5, secret);
	secret = 31;
	copy_to_user(user, &secret, sizeof(secret));
	return wait_for(ctx, 0, 1);
}

/* 4.2: eleven timeouts, one after the other, each waited for on CQ 1. */
RING_PROG(counting)
{
	struct io_uring_sqe timeout = {
		.opcode = OP_TIMEOUT,
		.addr = ctx->user_data,
		.len = 1,
		.user_data = 5,
		.cq_idx = 1,
	};
	u64 started = get(0);

	if (started > 10)
		return finish(ctx);
	put(0, started + 1);
	if (started) {
		struct io_uring_cqe cqe;

		reap(ctx, 1, &cqe);
		put(1, cqe.user_data);
	}
	submit(ctx, &timeout);
	return wait_for(ctx, 1, 1);
}

/* 4.3: the number that comes in on CQ idx + 1 goes out, plus one, on the other side's CQ. */
RING_PROG(pingpong)
{
	struct io_uring_cqe cqe;
	u32 idx = 0;

	copy_from_user(&idx, sizeof(idx), (void *)ctx->user_data);
	if (idx > 1)
		return finish(ctx);
	if (!get(idx)) {
		put(idx, 1);
		return wait_for(ctx, idx + 1, 1);
	}
	reap(ctx, idx + 1, &cqe);
	emit(ctx, 2 - idx, cqe.user_data + 1, 0, 0);
	if (cqe.user_data >= 20) {
		put(5 + idx, cqe.user_data);
		return finish(ctx);
	}
	return wait_for(ctx, idx + 1, 1);
}

#define DEPTH 4
#define BLOCKS 16
#define BLOCK_BYTES 16384

/* 4.4: sixteen blocks, four at a time; arr[0] is in flight, arr[1] the next block. */
RING_PROG(write_file)
{
	struct io_uring_sqe write = {
		.opcode = OP_WRITE,
		.flags = SQE_FIXED_FILE,
		.fd = 0,
		.addr = ctx->user_data,
		.len = BLOCK_BYTES,
		.cq_idx = 1,
	};
	u64 in_flight = get(0);
	u64 next = get(1);

	for (u32 i = 0; i < DEPTH && i < in_flight; i++) {
		struct io_uring_cqe cqe;

		reap(ctx, 1, &cqe);
	}
	in_flight = 0;
	for (u32 i = 0; i < DEPTH && next < BLOCKS; i++) {
		write.off = next * BLOCK_BYTES;
		submit(ctx, &write);
		next++;
		in_flight++;
	}
	put(0, in_flight);
	put(1, next);
	if (!in_flight)
		return finish(ctx);
	return wait_for(ctx, 1, DEPTH);
}
