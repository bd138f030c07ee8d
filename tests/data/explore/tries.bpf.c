// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* A program that tries again for ever: a request that fails, a timer, or both in turns. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

enum { OPENS = 1, RESTS = 2, READS = 4 };

struct task {
	struct ring_timespec delay;
	u64 path;
	u64 buffer;
	u32 does; /* OPENS | RESTS | READS, in this order, again and again */
	u32 fd;
	u32 tries; /* at most, 0: for ever */
	u32 pad;
};

struct task shape; /* so that BTF has the struct; nobody uses it */

ARRAY_OF(tried, u64, 1, 0);

inline_always void start(struct io_uring_bpf_ctx *ctx, const struct task *task, u64 turn)
{
	struct task *user = (struct task *)ctx->user_data;
	struct io_uring_sqe sqe = { .opcode = OP_OPENAT, .fd = AT_FDCWD, .addr = task->path, .cq_idx = 1 };

	if ((task->does & RESTS) && (turn & 1 || task->does == RESTS)) {
		sqe.opcode = OP_TIMEOUT;
		sqe.fd = 0;
		sqe.addr = (u64)&user->delay;
		sqe.len = 1;
	} else if (task->does & READS) {
		sqe.opcode = OP_READ;
		sqe.fd = task->fd;
		sqe.addr = task->buffer;
		sqe.len = 8;
		sqe.off = turn; /* beyond the end, soon */
	}
	submit(ctx, &sqe);
}

RING_PROG(again)
{
	struct io_uring_cqe done;
	struct task task;
	u64 *count = slot(&tried, 0);

	if (!count || copy_from_user(&task, sizeof(task), (void *)ctx->user_data))
		return finish(ctx);
	if (*count) {
		if (reap(ctx, 1, &done))
			return wait_for(ctx, 1, 1);
		if (task.tries && *count >= task.tries)
			return finish(ctx);
		if ((task.does & OPENS) && done.res >= 0)
			return finish(ctx);
	}
	start(ctx, &task, (*count)++);
	return wait_for(ctx, 1, 1);
}
