// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A pipeline across two rings: `fill` reads blocks on one, `drain` writes them on the other. They
 * share maps and user memory; what goes from ring to ring is the number of a buffer, which the host
 * carries: from `fill` to `drain` when it is full, and back as a credit when it is empty again.
 * Both get it as a completion in their CQ 1 and give it as one in CQ 0. user_data of both requests
 * is the address of the `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define BUFFERS 4
#define BLOCK 4096
#define HANDED 0x100 /* added to the number of a buffer that comes from the host */

/* A buffer is filled again when it has come back; the twin (twin.bpf.c) does not wait for that. */
#ifndef CREDITED
#define CREDITED 1
#endif

struct job {
	u64 buffers; /* address of BUFFERS blocks */
	s32 from;    /* of the ring that reads */
	s32 to;      /* of the ring that writes */
	u32 blocks;
	u32 pad;
};

/* What is in a buffer: `fill` writes it, `drain` reads it. */
struct content {
	u32 block;
	u32 bytes;
};

struct state {
	struct job job; /* as the host wrote it */
	u32 next;       /* first block that nobody reads yet */
	u32 reading;
	u32 handed; /* buffers that are not here */
	u32 written;
	u32 failed;
	u32 pad;
};

ARRAY_OF(contents, struct content, BUFFERS, 0);
ARRAY_OF(state, struct state, 1, 0);

inline_always struct content *content_of(u32 buffer)
{
	return map_lookup(&contents, &buffer);
}

inline_always void read_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct state *now, u32 buffer)
{
	struct content *content = content_of(buffer);
	struct io_uring_sqe read = {
		.opcode = OP_READ,
		.fd = job->from,
		.addr = job->buffers + buffer * BLOCK,
		.len = BLOCK,
		.off = (u64)now->next * BLOCK,
		.user_data = buffer,
		.cq_idx = STEPS_CQ,
	};

	if (!content || now->next >= job->blocks)
		return;
	content->block = now->next++;
	now->reading++;
	submit(ctx, &read);
}

RING_PROG(fill)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	if (!now->next)
		for (u32 buffer = 0; buffer < BUFFERS; buffer++)
			read_next(ctx, &job, now, buffer);
	for (u32 i = 0; i < BUFFERS; i++) {
		struct content *content;
		u32 buffer;

		if (reap(ctx, STEPS_CQ, &done))
			break;
		buffer = done.user_data & ~(u64)HANDED;
		if (buffer >= BUFFERS)
			continue;
		if (done.user_data & HANDED) {
			now->handed--;
			if (CREDITED)
				read_next(ctx, &job, now, buffer);
			continue;
		}
		content = content_of(buffer);
		if (!content)
			continue;
		now->reading--;
		now->handed++;
		content->bytes = done.res > 0 ? done.res : 0;
		now->failed += done.res < 0;
		emit(ctx, 0, buffer, content->bytes, 0);
		if (!CREDITED)
			read_next(ctx, &job, now, buffer);
	}
	if (now->reading || now->handed)
		return wait_for(ctx, STEPS_CQ, 1);
	return finish(ctx);
}

RING_PROG(drain)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_sqe write = { .opcode = OP_WRITE, .cq_idx = STEPS_CQ };
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	for (u32 i = 0; i < BUFFERS; i++) {
		struct content *content;
		u32 buffer, bytes;

		if (reap(ctx, STEPS_CQ, &done))
			break;
		buffer = done.user_data & ~(u64)HANDED;
		if (buffer >= BUFFERS)
			continue;
		content = content_of(buffer);
		if (!content)
			continue;
		bytes = content->bytes;
		if (done.user_data & HANDED) {
			write.fd = job.to;
			write.addr = job.buffers + buffer * BLOCK;
			write.len = bytes < BLOCK ? bytes : BLOCK;
			write.off = (u64)content->block * BLOCK;
			write.user_data = buffer;
			submit(ctx, &write);
			continue;
		}
		now->failed += done.res != (s32)bytes;
		now->written++;
		emit(ctx, 0, buffer, done.res, 0);
	}
	if (now->written < job.blocks)
		return wait_for(ctx, STEPS_CQ, 1);
	return finish(ctx);
}
