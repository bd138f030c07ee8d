// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Reduce: a checksum over the completions of many reads. They are done in any order, so each word
 * is weighed by its place in the file, and adding up is all that is left to do; the file's bytes
 * never come to userspace. user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define READS_CQ 1
#define BATCH 4 /* completions in a run */
#ifndef DEPTH
#define DEPTH 4
#define WORDS 128
#endif
#define BLOCK (WORDS * 8)

/* What tells one read from another is the number of its buffer; the twin (twin.bpf.c) has its
 * address instead. */
#ifndef TOKEN
#define TOKEN(slot, job) (slot)
#define SLOT(token, job) (token)
#define BUFFER(token, job) (void *)((job)->buffers + (u32)(token) * BLOCK)
#endif

struct job {
	u64 buffers; /* address of DEPTH blocks */
	s32 file;
	s32 error;    /* out: what the first read that failed said */
	u64 blocks;   /* whole ones */
	u64 checksum; /* out */
	u32 depth;    /* reads in flight, at most DEPTH */
	u32 pad;
};

struct block {
	u64 words[WORDS];
};

struct state {
	struct job job; /* the host's, and in it the results so far */
	u64 next;       /* first block that nobody reads yet */
	u64 reading[DEPTH]; /* the block that each buffer is for */
	u32 in_flight;
	u32 started;
};

ARRAY_OF(scratch, struct block, 1, 0);
ARRAY_OF(state, struct state, 1, 0);

inline_always void read_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct state *now, u32 slot)
{
	struct io_uring_sqe read = {
		.opcode = OP_READ,
		.fd = job->file,
		.addr = job->buffers + slot * BLOCK,
		.len = BLOCK,
		.off = now->next * BLOCK,
		.user_data = TOKEN(slot, job),
		.cq_idx = READS_CQ,
	};

	if (now->next >= job->blocks || now->job.error)
		return;
	now->reading[slot] = now->next++;
	now->in_flight++;
	submit(ctx, &read);
}

/* Weighs the words of one block: the odd numbers from 2 * place + 1. */
inline_always u64 sum_of(const struct block *block, u64 index)
{
	u64 weight = 2 * index * WORDS + 1;
	u64 sum = 0;

	for (u32 i = 0; i < WORDS; i++) {
		sum += block->words[i] * weight;
		weight += 2;
	}
	return sum;
}

RING_PROG(checksum)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct block *block = map_lookup(&scratch, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || !block || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	if (!now->started) {
		now->started = 1;
		now->next = 0;
		now->job = job;
		now->job.error = 0;
		now->job.checksum = 0;
		for (u32 slot = 0; slot < DEPTH; slot++)
			if (slot < job.depth)
				read_next(ctx, &job, now, slot);
	}
	for (u32 i = 0; i < BATCH; i++) {
		u32 slot;

		if (reap(ctx, READS_CQ, &done))
			break;
		now->in_flight--;
		slot = SLOT(done.user_data, &job);
		if (slot >= DEPTH)
			continue;
		if (done.res != BLOCK) {
			now->job.error = done.res < 0 ? done.res : -EIO;
			continue;
		}
		copy_from_user(block, sizeof(*block), BUFFER(done.user_data, &job));
		now->job.checksum += sum_of(block, now->reading[slot]);
		read_next(ctx, &job, now, slot);
	}
	if (now->in_flight)
		return wait_for(ctx, READS_CQ, 1);
	now->started = 0;
	copy_to_user(&user->error, &now->job.error, sizeof(s32));
	copy_to_user(&user->checksum, &now->job.checksum, sizeof(u64));
	return finish(ctx);
}
