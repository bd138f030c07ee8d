// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A constant queue depth: every read that is done is followed by the next one at once, whichever
 * it was, until the file has been read. Userspace is not asked in between. user_data is the
 * address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define READS_CQ 1
#define DEPTH_MAX 16
#define BLOCK 4096

/* The twin (twin.bpf.c) counts a completion whether there was one or not. */
#ifndef NONE_LEFT
#define NONE_LEFT 1
#endif

struct job {
	u64 buffers; /* address of DEPTH_MAX blocks: one for each read in flight */
	s32 file;
	u32 blocks;
	u32 depth; /* reads in flight, 1 to DEPTH_MAX */
	u32 pad;
};

struct state {
	struct job job; /* as the host wrote it */
	u32 next;       /* first block that nobody reads yet */
	u32 in_flight;
	u32 most;       /* the largest `in_flight` there was */
	u32 failed;
	u64 bytes;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void read_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct state *now, u32 slot)
{
	struct io_uring_sqe read = {
		.opcode = OP_READ,
		.fd = job->file,
		.addr = job->buffers + (u64)slot * BLOCK,
		.len = BLOCK,
		.off = (u64)now->next * BLOCK,
		.user_data = slot,
		.cq_idx = READS_CQ,
	};

	submit(ctx, &read);
	now->next++;
	now->in_flight++;
	if (now->in_flight > now->most)
		now->most = now->in_flight;
}

RING_PROG(reader)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	if (job.depth < 1 || job.depth > DEPTH_MAX)
		return finish(ctx);

	/* The first run fills the pipeline, each slot with a block of its own. */
	if (!now->next)
		for (u32 slot = 0; slot < DEPTH_MAX; slot++) {
			if (slot >= job.depth || now->next >= job.blocks)
				break;
			read_next(ctx, &job, now, slot);
		}

	for (u32 i = 0; i < DEPTH_MAX; i++) {
		u32 slot;

		if (reap(ctx, READS_CQ, &done) && NONE_LEFT)
			break;
		now->in_flight--;
		if (done.res < 0)
			now->failed++;
		else
			now->bytes += done.res;
		slot = done.user_data;
		if (now->next < job.blocks && slot < DEPTH_MAX)
			read_next(ctx, &job, now, slot);
	}
	if (now->in_flight)
		return wait_for(ctx, READS_CQ, 1);
	emit(ctx, 0, now->bytes, now->failed, 0);
	return finish(ctx);
}
