// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A desk of workers: `worker` requests wait on a queue on which nobody posts, `dispatch` reads a
 * file block by block and puts an idle worker behind each read. The worker goes on when its block
 * is there, adds it up, and is idle again; no other worker is woken for it, and none has a queue.
 */
#include "iouring_x.h"

LICENSE("Dual MIT/GPL");

#define IDLE_CQ 1  /* idle workers wait here; one completion sends all of them home */
#define BLOCK_CQ 2 /* blocks that were read, for the worker that goes on */
#define DESK_CQ 3  /* a worker is idle again */
#define WORKERS_MAX 8
#define WORDS 32
#define BLOCK (WORDS * sizeof(u32))

struct job {
	u64 buffers; /* address of WORKERS_MAX blocks */
	s32 fd;
	u32 blocks;
	u32 sum; /* out */
	u32 bad; /* out: blocks that were not read whole, or had no worker */
};

struct desk {
	struct job job;
	u64 buffers[WORKERS_MAX]; /* their addresses */
	u32 free[WORKERS_MAX]; /* numbers of free buffers, the first `idle` of them */
	u32 idle;              /* workers, and free buffers */
	u32 asked;             /* blocks */
	u32 done;
	u32 started;
	u32 over;
};

ARRAY_OF(desks, struct desk, 1, 0);

inline_always struct desk *the_desk(void)
{
	return map_lookup(&desks, &(u32){ 0 });
}

/* Another worker, or one that has done its block. */
inline_always int idle(struct io_uring_bpf_ctx *ctx, struct desk *desk, u32 buffer)
{
	u32 at = desk->idle;

	if (at >= WORKERS_MAX)
		return finish(ctx);
	desk->free[at] = buffer;
	desk->idle = at + 1;
	return wait_for(ctx, IDLE_CQ, 1);
}

inline_always void add_up(struct desk *desk, u32 buffer, s32 bytes)
{
	u32 block[WORDS];

	if (buffer >= WORKERS_MAX || bytes != BLOCK ||
	    copy_from_user(block, BLOCK, (void *)desk->buffers[buffer])) {
		desk->job.bad++;
		return;
	}
	for (u32 i = 0; i < WORDS; i++)
		desk->job.sum += block[i];
}

RING_PROG(worker)
{
	struct desk *desk = the_desk();
	struct io_uring_cqe done;

	if (!desk || desk->over)
		return finish(ctx);
	if (reap(ctx, BLOCK_CQ, &done))
		return idle(ctx, desk, desk->idle);
	add_up(desk, (u32)done.user_data, done.res);
	if (++desk->done == desk->job.blocks) {
		desk->over = 1;
		emit(ctx, IDLE_CQ, 0, 0, 0);
		emit(ctx, DESK_CQ, 0, 0, 0);
		return finish(ctx);
	}
	emit(ctx, DESK_CQ, 0, 0, 0);
	return idle(ctx, desk, (u32)done.user_data);
}

inline_always void read_next(struct io_uring_bpf_ctx *ctx, struct desk *desk)
{
	u32 last = desk->idle - 1, buffer;
	struct io_uring_sqe read = {
		.opcode = OP_READ,
#ifndef TWIN
		.flags = SQE_IO_HARDLINK,
#endif
		.fd = desk->job.fd,
		.len = BLOCK,
		.off = (u64)desk->asked * BLOCK,
		.cq_idx = BLOCK_CQ,
	};

	if (last >= WORKERS_MAX)
		return;
	desk->idle = last;
	desk->asked++;
	buffer = desk->free[last] % WORKERS_MAX;
	read.user_data = buffer;
	read.addr = desk->buffers[buffer];
	submit(ctx, &read);
	if (requeue(ctx, IDLE_CQ, TO_LINK, 1) != 1)
		desk->job.bad++;
}

RING_PROG(dispatch)
{
	struct job *user = (struct job *)ctx->user_data;
	struct desk *desk = the_desk();
	struct io_uring_cqe rung;

	if (!desk)
		return finish(ctx);
	if (!desk->started) {
		if (copy_from_user(&desk->job, sizeof(desk->job), user))
			return finish(ctx);
		for (u32 i = 0; i < WORKERS_MAX; i++)
			desk->buffers[i] = desk->job.buffers + i * BLOCK;
		desk->started = 1;
	}
	for (u32 i = 0; i < WORKERS_MAX; i++)
		if (reap(ctx, DESK_CQ, &rung))
			break;
	for (u32 i = 0; i < WORKERS_MAX; i++)
		if (desk->asked < desk->job.blocks && desk->idle)
			read_next(ctx, desk);
	if (!desk->over)
		return wait_for(ctx, DESK_CQ, 1);
	copy_to_user(&user->sum, &desk->job.sum, sizeof(u32));
	copy_to_user(&user->bad, &desk->job.bad, sizeof(u32));
	return finish(ctx);
}
