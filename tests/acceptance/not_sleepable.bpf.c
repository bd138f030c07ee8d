// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * v2 programs that are not sleepable: they may emit and reap, but not submit or reach user memory
 * (ABI note, sections 2.1, 2.2 and 2.4).
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(out, u64, 16, 0);

SEC("iouring/x")
int emits(struct io_uring_bpf_ctx *ctx)
{
	u64 *cell = slot(&out, 0);

	if (cell)
		*cell = 1;
	emit(ctx, 0, 7, 8, 0);
	return 0;
}

SEC("iouring/submits")
int submits(struct io_uring_bpf_ctx *ctx)
{
	struct io_uring_sqe nop = { .opcode = OP_NOP };

	submit(ctx, &nop);
	return 0;
}

SEC("iouring/copies")
int copies(struct io_uring_bpf_ctx *ctx)
{
	u32 word = 0;

	copy_from_user(&word, sizeof(word), (void *)ctx->user_data);
	return 0;
}
