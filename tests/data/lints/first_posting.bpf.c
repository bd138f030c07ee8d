// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* The lint of the first posting's ABI alone, as in twins.bpf.c: a refused SQE posts no CQE there. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(count, u64, 1, 0);

RING_PROG(bad_submit_result_ignored)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP };

	submit(ctx, &sqe);
	return 0;
}

RING_PROG(good_submit_result_ignored)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP };
	u64 *refused = slot(&count, 0);

	if (submit(ctx, &sqe) && refused)
		*refused += 1;
	return 0;
}

/* A function that is judged alone gives the result to its caller, or does not. */
__attribute__((noinline)) int submit_nop(struct io_uring_bpf_ctx *ctx)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP };

	return submit(ctx, &sqe);
}

__attribute__((noinline)) int submit_and_forget(struct io_uring_bpf_ctx *ctx)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP };

	submit(ctx, &sqe);
	return 0;
}

RING_PROG(bad_submit_result_ignored_in_a_function)
{
	submit_and_forget(ctx);
	return 0;
}

RING_PROG(good_submit_result_ignored_in_a_function)
{
	u64 *refused = slot(&count, 0);

	if (submit_nop(ctx) && refused)
		*refused += 1;
	return 0;
}
