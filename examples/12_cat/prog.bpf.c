// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * cat: files by their paths, one after the other, into one descriptor. A file that can not be
 * opened is counted and passed over. user_data is the address of a `struct job`; one at a time.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define FILES_MAX 8
#define BUFFER 1024

/* The twin (twin.bpf.c) writes as much as it asked for, not as much as it got. */
#ifndef TO_WRITE
#define TO_WRITE(got) (got)
#endif

struct job {
	u64 paths[FILES_MAX]; /* addresses of NUL-terminated paths */
	u64 buffer;           /* address of BUFFER bytes */
	u32 files;
	s32 to;
	u32 missing; /* out: files that could not be read */
	u32 pad;
	u64 bytes; /* out */
};

enum step { NEXT, OPENING, READING, WRITING, CLOSING };

struct job job; /* the host's, as it was when the request started */
u32 file;       /* index of the one whose turn it is */
u32 step;
s32 fd;
u64 position; /* of the next read */
u32 have;     /* bytes in the buffer */
u32 put;      /* of them written */

inline_always int done_with(struct io_uring_bpf_ctx *ctx, struct job *user)
{
	copy_to_user(&user->missing, &job.missing, sizeof(job.missing));
	copy_to_user(&user->bytes, &job.bytes, sizeof(job.bytes));
	job.files = 0;
	return finish(ctx);
}

RING_PROG(cat)
{
	struct job *user = (struct job *)ctx->user_data;
	struct io_uring_sqe sqe = { .cq_idx = STEPS_CQ };
	struct io_uring_cqe done = {};

	if (step) {
		if (reap(ctx, STEPS_CQ, &done))
			return wait_for(ctx, STEPS_CQ, 1);
	} else {
		if (copy_from_user(&job, sizeof(job), user))
			return finish(ctx);
		file = 0;
	}

	switch (step) {
	case OPENING:
		if (done.res < 0) {
			job.missing++;
			step = NEXT;
			break;
		}
		fd = done.res;
		position = 0;
		step = READING;
		break;
	case READING:
		if (done.res <= 0) {
			job.missing += done.res < 0;
			step = CLOSING;
			break;
		}
		have = TO_WRITE(done.res);
		position += done.res;
		put = 0;
		step = WRITING;
		break;
	case WRITING:
		if (done.res <= 0) { /* nobody reads us any more */
			job.files = 0;
			step = CLOSING;
			break;
		}
		put += done.res;
		job.bytes += done.res;
		if (put >= have)
			step = READING;
		break;
	default: /* NEXT, before the first file, and CLOSING */
		step = NEXT;
	}

	if (step == NEXT) {
		u32 index = file++;

		if (index >= job.files || index >= FILES_MAX)
			return done_with(ctx, user);
		sqe.opcode = OP_OPENAT;
		sqe.fd = AT_FDCWD;
		sqe.addr = job.paths[index];
		step = OPENING;
	} else if (step == READING) {
		sqe.opcode = OP_READ;
		sqe.fd = fd;
		sqe.addr = job.buffer;
		sqe.len = BUFFER;
		sqe.off = position;
	} else if (step == WRITING) {
		u32 from = put;

		if (from >= BUFFER)
			return finish(ctx);
		sqe.opcode = OP_WRITE;
		sqe.fd = job.to;
		sqe.addr = job.buffer + from;
		sqe.len = have - from < BUFFER - from ? have - from : BUFFER - from;
	} else {
		sqe.opcode = OP_CLOSE;
		sqe.fd = fd;
	}
	submit(ctx, &sqe);
	return wait_for(ctx, STEPS_CQ, 1);
}
