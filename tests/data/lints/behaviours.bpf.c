// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The four behaviours of tests/acceptance/tables.bpf.c, each broken in one way that a ring would
 * not refuse. Their contract is that of the behaviours.
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

/* Forgets to note that there was a first run, so every run is a first one. */
RING_PROG(test)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP, .user_data = 2, .cq_idx = 0 };
	void *user = (void *)ctx->user_data;
	u32 secret = 0;

	if (get(10))
		return finish(ctx);
	emit(ctx, 0, 3, 13, 0);
	submit(ctx, &nop);
	copy_from_user(&secret, sizeof(secret), user);
	return wait_for(ctx, 0, 1);
}

/* Gives its own address for the timespec. */
RING_PROG(counting)
{
	u64 *started = slot(&arr, 0);
	struct io_uring_sqe timeout = { .opcode = OP_TIMEOUT, .len = 1, .user_data = 5, .cq_idx = 1 };

	if (!started || *started > 10)
		return finish(ctx);
	*started += 1;
	timeout.addr = (u64)started;
	submit(ctx, &timeout);
	return wait_for(ctx, 1, 1);
}

/* Answers on a queue that the ring does not have. */
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
	if (reap(ctx, idx + 1, &cqe))
		return finish(ctx);
	emit(ctx, 3, cqe.user_data + 1, 0, 0);
	if (cqe.user_data >= 20)
		return finish(ctx);
	return wait_for(ctx, idx + 1, 1);
}

/* Multiplies block numbers in 32 bits. */
RING_PROG(write_file)
{
	struct io_uring_sqe write = {
		.opcode = OP_WRITE,
		.flags = SQE_FIXED_FILE,
		.addr = ctx->user_data,
		.len = 16384,
		.cq_idx = 1,
	};
	struct io_uring_cqe cqe;
	u32 next = get(1);

	if (reap(ctx, 1, &cqe) == 0 && cqe.res != 16384)
		return finish(ctx);
	if (next >= get(2))
		return finish(ctx);
	opaque(next);
	write.off = next * 16384;
	submit(ctx, &write);
	put(1, next + 1);
	return wait_for(ctx, 1, 1);
}
