// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A file split by lines, inside the ring: the host gets a completion for each line, user_data its
 * position and res its length, and never looks for a newline itself. Lines may be longer than a
 * chunk. user_data is the address of a `struct job`; one at a time.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define READS_CQ 1
#define CHUNK 256

/* The twin (twin.bpf.c) trusts the length. */
#ifndef IN_CHUNK
#define IN_CHUNK(at) ((at) < CHUNK)
#endif

struct job {
	u64 buffer; /* address of CHUNK bytes */
	s32 file;
	u32 lines; /* out */
};

struct chunk {
	u8 bytes[CHUNK];
};

ARRAY_OF(chunks, struct chunk, 1, 0);

struct job job;   /* the host's, and the lines so far */
u64 position;     /* of the chunk that is being read */
u64 line_at;      /* where the line that has no end yet begins */
u32 started;

inline_always void split(struct io_uring_bpf_ctx *ctx, const u8 *bytes, u32 got)
{
	for (u32 at = 0; IN_CHUNK(at); at++) {
		u64 end;

		if (at >= got)
			break;
		if (bytes[at] != '\n')
			continue;
		end = position + at + 1;
		emit(ctx, 0, line_at, end - line_at, 0);
		job.lines++;
		line_at = end;
	}
}

RING_PROG(lines)
{
	struct job *user = (struct job *)ctx->user_data;
	struct chunk *chunk = map_lookup(&chunks, &(u32){ 0 });
	struct io_uring_sqe read = { .opcode = OP_READ, .len = CHUNK, .cq_idx = READS_CQ };
	struct io_uring_cqe done;
	s32 got;

	if (!chunk)
		return finish(ctx);
	if (!started) {
		if (copy_from_user(&job, sizeof(job), user))
			return finish(ctx);
		started = 1;
		position = 0;
		line_at = 0;
	} else {
		if (reap(ctx, READS_CQ, &done))
			return wait_for(ctx, READS_CQ, 1);
		got = done.res;
		if (got <= 0) {
			if (position > line_at) { /* the last line may lack its newline */
				emit(ctx, 0, line_at, position - line_at, 0);
				job.lines++;
			}
			started = 0;
			copy_to_user(&user->lines, &job.lines, sizeof(job.lines));
			return finish(ctx);
		}
		copy_from_user(chunk->bytes, CHUNK, (void *)job.buffer);
		split(ctx, chunk->bytes, got);
		position += got;
	}
	read.fd = job.file;
	read.addr = job.buffer;
	read.off = position;
	submit(ctx, &read);
	return wait_for(ctx, READS_CQ, 1);
}
