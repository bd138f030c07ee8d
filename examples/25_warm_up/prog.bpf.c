// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Warming a block cache: reads the blocks of a list, each once, with a bounded number in flight so
 * that others get at the disk too. The host can stop it at any time by a word in its memory.
 * user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define READS_CQ 1
#define DEPTH_MAX 8
#define BLOCK 4096
#define LIST_MAX 256
#define BLOCKS_MAX 4096
#define PLACES 16        /* of the list, in a run */
#define AGAIN DEPTH_MAX  /* user_data of a completion that only wakes the program */

/* The twin (twin.bpf.c) never waits for a buffer. */
#ifndef NO_BUFFER
#define NO_BUFFER break
#endif

struct job {
	u64 list;    /* address of LIST_MAX numbers of blocks, u32 each */
	u64 buffers; /* address of DEPTH_MAX blocks */
	s32 file;
	u32 count; /* numbers in the list */
	u32 depth; /* reads in flight, 1 to DEPTH_MAX */
	u32 stop;  /* the host's: no more, please */
	u32 warmed;  /* out: blocks that were read */
	u32 repeats; /* out: numbers that were in the list before */
};

struct state {
	struct job job; /* the host's, and in it the results so far */
	u32 next;       /* place in the list */
	u32 in_flight;
	u32 busy; /* a bit for each buffer that is read into */
	u32 started;
};

ARRAY_OF(state, struct state, 1, 0);
ARRAY_OF(seen, u64, BLOCKS_MAX / 64, 0); /* a bit for each block */

/* Whether a block is asked for the first time. */
inline_always u32 is_new(u32 block)
{
	u64 bit = 1ULL << (block % 64);
	u64 *word;

	if (block >= BLOCKS_MAX)
		return 0;
	word = slot(&seen, block / 64);
	if (!word || (*word & bit))
		return 0;
	*word |= bit;
	return 1;
}

/* The first buffer that is not read into, DEPTH_MAX if all are. */
inline_always u32 free_buffer(u32 busy)
{
	for (u32 buffer = 0; buffer < DEPTH_MAX; buffer++)
		if (!(busy & (1u << buffer)))
			return buffer;
	return DEPTH_MAX;
}

/* Reads the next blocks of the list, as many as may be in flight. */
inline_always void read_on(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe read = {
		.opcode = OP_READ,
		.fd = job->file,
		.len = BLOCK,
		.cq_idx = READS_CQ,
	};

	for (u32 i = 0; i < PLACES; i++) {
		u32 place = now->next, buffer = free_buffer(now->busy), block;

		if (place >= job->count || place >= LIST_MAX)
			break;
		if (buffer >= job->depth || buffer >= DEPTH_MAX)
			NO_BUFFER;
		now->next++;
		if (copy_from_user(&block, sizeof(block), (void *)(job->list + place * 4)))
			break;
		if (!is_new(block)) {
			now->job.repeats++;
			continue;
		}
		read.off = (u64)block * BLOCK;
		read.addr = job->buffers + buffer * BLOCK;
		read.user_data = buffer;
		submit(ctx, &read);
		now->busy |= 1u << buffer;
		now->in_flight++;
	}
	/* Nothing but repeats: on with the list in the next run. */
	if (!now->in_flight && now->next < job->count && !emit(ctx, READS_CQ, AGAIN, 0, 0))
		now->in_flight++;
}

RING_PROG(warm)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	if (!now->started) {
		now->started = 1;
		now->next = 0;
		now->job = job;
	}
	for (u32 i = 0; i <= DEPTH_MAX; i++) {
		if (reap(ctx, READS_CQ, &done))
			break;
		now->in_flight--;
		if (done.user_data < DEPTH_MAX)
			now->busy &= ~(1u << done.user_data);
		if (done.res > 0)
			now->job.warmed++;
	}
	if (!job.stop)
		read_on(ctx, &job, now);
	if (now->in_flight)
		return wait_for(ctx, READS_CQ, 1);
	now->started = 0;
	copy_to_user(&user->warmed, &now->job.warmed, sizeof(u32));
	copy_to_user(&user->repeats, &now->job.repeats, sizeof(u32));
	return finish(ctx);
}
