// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A file copy: several blocks on their way at once, each first read, then written. A read or a
 * write that does less than it was asked to is continued where it stopped; positions have 64 bits.
 * Sources without positions (pipes, sockets) have the offset NO_POSITION and a depth of 1. user_data
 * is the address of a `struct job`; one request at a time.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define COPY_CQ 1
#define BATCH 4 /* completions in a run */
#ifndef DEPTH_MAX
#define DEPTH_MAX 4
#endif
#define BLOCK 16384
#define NO_POSITION (~0ULL)

/* The twin (twin.bpf.c) keeps positions in 32 bits. */
#ifndef POSITION
#define POSITION u64
#endif

struct job {
	u64 buffers; /* address of DEPTH_MAX blocks */
	s32 from;
	s32 to;
	u64 from_offset;
	u64 to_offset;
	u64 bytes; /* to copy; less where the source ends before */
	u32 depth; /* blocks on their way, 1 to DEPTH_MAX */
	s32 error; /* out: 0, or what went wrong first */
	u64 copied; /* out */
};

enum doing { IDLE, READING, WRITING };

struct block {
	u64 at;   /* relative to the offsets of the job */
	u32 want; /* bytes to copy */
	u32 have; /* bytes read */
	u32 put;  /* bytes written */
	u32 doing;
};

ARRAY_OF(blocks, struct block, DEPTH_MAX, 0);

struct state {
	struct job job; /* the host's, and in it the results so far */
	u64 next;       /* first byte that no block has taken */
	u64 end;        /* of the source, as far as that is known */
	u32 started;
	u32 in_flight;
	u32 continued; /* transfers that had to go on where they stopped */
	u32 pad;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void transfer(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, struct block *block, u32 slot)
{
	struct io_uring_sqe sqe = {
		.addr = job->buffers + slot * BLOCK,
		.user_data = slot,
		.cq_idx = COPY_CQ,
	};

	if (block->doing == READING) {
		u32 have = block->have;

		if (have >= BLOCK)
			return;
		sqe.off = (POSITION)(job->from_offset + block->at + have);
		if (job->from_offset == NO_POSITION)
			sqe.off = NO_POSITION;
		sqe.opcode = OP_READ;
		sqe.fd = job->from;
		sqe.addr += have;
		sqe.len = BLOCK - have;
		if (sqe.len > block->want - have)
			sqe.len = block->want - have;
	} else {
		u32 put = block->put;

		if (put >= BLOCK)
			return;
		sqe.off = (POSITION)(job->to_offset + block->at + put);
		sqe.opcode = OP_WRITE;
		sqe.fd = job->to;
		sqe.addr += put;
		sqe.len = BLOCK - put;
		if (sqe.len > block->have - put)
			sqe.len = block->have - put;
	}
	submit(ctx, &sqe);
	now->in_flight++;
}

/* A copy of the index is what the lookup points to: the verifier follows a counter in a register
 * better than one whose address was taken. */
inline_always struct block *block_of(u32 slot)
{
	return map_lookup(&blocks, &slot);
}

/* The next piece of the source for a block that has nothing to do. */
inline_always void take_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, struct block *block, u32 slot)
{
	block->doing = IDLE;
	if (now->next >= now->end || now->job.error)
		return;
	block->at = now->next;
	block->want = now->end - now->next < BLOCK ? now->end - now->next : BLOCK;
	block->have = 0;
	block->put = 0;
	block->doing = READING;
	now->next += block->want;
	transfer(ctx, job, now, block, slot);
}

inline_always void complete(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, struct block *block, u32 slot, s32 res)
{
	if (res < 0 || (res == 0 && block->doing == WRITING)) {
		if (!now->job.error)
			now->job.error = res ? res : -EIO;
		block->doing = IDLE;
		return;
	}
	if (block->doing == READING) {
		block->have += res;
		if (res && block->have < block->want) {
			now->continued++;
			transfer(ctx, job, now, block, slot);
			return;
		}
		if (!res) /* the source ends here: nobody reads on */
			now->end = now->next;
		if (!block->have) {
			block->doing = IDLE;
			return;
		}
		block->doing = WRITING;
	} else {
		block->put += res;
		now->job.copied += res;
		if (block->put >= block->have) {
			take_next(ctx, job, now, block, slot);
			return;
		}
		now->continued++;
	}
	transfer(ctx, job, now, block, slot);
}

RING_PROG(copy)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct block *block;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);

	if (!now->started) {
		now->job = job;
		now->next = 0;
		now->end = job.bytes;
		now->started = 1;
		for (u32 slot = 0; slot < DEPTH_MAX; slot++) {
			block = block_of(slot);
			if (block && slot < job.depth)
				take_next(ctx, &job, now, block, slot);
		}
	}
	for (u32 i = 0; i < BATCH; i++) {
		u32 slot;

		if (reap(ctx, COPY_CQ, &done))
			break;
		now->in_flight--;
		slot = done.user_data;
		if (slot >= DEPTH_MAX)
			continue;
		block = block_of(slot);
		if (block)
			complete(ctx, &job, now, block, slot, done.res);
	}
	if (now->in_flight)
		return wait_for(ctx, COPY_CQ, 1);
	now->started = 0;
	copy_to_user(&user->error, &now->job.error, sizeof(s32));
	copy_to_user(&user->copied, &now->job.copied, sizeof(u64));
	return finish(ctx);
}
