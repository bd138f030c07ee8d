// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Programs that go wrong in some orders only: `second` does what its block says when another request
 * ran before it, `faulty` then reads from nowhere. Those called `alone` share nothing.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

enum { NOTHING, WAITS, SPINS, OVERFLOWS, LEAVES, OVERLAPS, TELLS };

struct job {
	u64 buffer;
	u32 does; /* as the second */
	u32 fd;
	u32 cq;
	u32 value;
};

struct job shape; /* so that BTF has the struct; nobody uses it */

ARRAY_OF(ran, u64, 1, 0);

inline_always void receive(struct io_uring_bpf_ctx *ctx, const struct job *job)
{
	struct io_uring_sqe recv = {
		.opcode = OP_RECV,
		.fd = job->fd,
		.addr = job->buffer,
		.len = 16,
		.cq_idx = 1,
	};

	submit(ctx, &recv);
}

/* How many requests ran before. */
inline_always u64 before(void)
{
	u64 *count = slot(&ran, 0);

	return count ? (*count)++ : 0;
}

RING_PROG(second)
{
	struct job job;
	u64 turn;
	int i;

	if (ctx->wait_nr)
		return wait_for(ctx, 1, 1);
	turn = before();
	if (copy_from_user(&job, sizeof(job), (void *)ctx->user_data) || !turn)
		return finish(ctx);
	if (job.does == WAITS)
		return wait_for(ctx, 1, 1);
	if (job.does == SPINS) {
		emit(ctx, 1, 0, 0, 0);
		return wait_for(ctx, 1, 1);
	}
	if (job.does == OVERFLOWS)
		for (i = 0; i < 3; i++)
			emit(ctx, 1, i, 0, 0);
	if (job.does == LEAVES || job.does == OVERLAPS)
		receive(ctx, &job);
	if (job.does == OVERLAPS)
		receive(ctx, &job);
	if (job.does == TELLS)
		emit(ctx, 1, turn, 0, 0);
	return finish(ctx);
}

RING_PROG(faulty)
{
	u64 *nowhere = 0;

	opaque(nowhere);
	if (before())
		return *nowhere;
	return finish(ctx);
}

RING_PROG(alone)
{
	struct job *user = (struct job *)ctx->user_data;
	struct job job;

	if (copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	job.value++;
	copy_to_user(&user->value, &job.value, sizeof(job.value));
	emit(ctx, job.cq, job.value, 0, 0);
	return finish(ctx);
}
