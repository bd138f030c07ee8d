/* SPDX-License-Identifier: MIT */
/* A request that a global function submits: to it the SQE is memory that its caller has. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

__attribute__((noinline)) int handed_on(struct io_uring_bpf_ctx *ctx, struct io_uring_sqe *sqe)
{
	if (!sqe)
		return 0;
	return submit(ctx, sqe);
}

RING_PROG(by_function)
{
	struct io_uring_sqe sqe = {.opcode = OP_NOP, .user_data = 1};
	handed_on(ctx, &sqe);
	return finish(ctx);
}
