// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * An accept loop: several accepts wait at any time, so that a burst of clients finds one each. A
 * client gets a greeting and is let go: a hard link closes its connection even where the greeting
 * could not be sent. Clients that have gone already, and a shortage of descriptors, end nothing.
 * user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define BATCH 8
#define ACCEPTS_MAX 4
#define GREETING_MAX 64

enum kind { ACCEPTED, GREETED, CLOSED };

/* The twin (twin.bpf.c) links the close as well. */
#ifndef LAST
#define LAST 0
#endif

struct job {
	u64 greeting; /* address of GREETING_MAX bytes */
	s32 listener;
	u32 greeting_bytes;
	u32 clients; /* to serve before the request ends */
	u32 accepts; /* waiting at a time, at most ACCEPTS_MAX */
};

struct state {
	struct job job; /* as the host wrote it */
	u32 accepting;
	u32 accepted;
	u32 greeted; /* completely */
	u32 closed;
	u32 aborted; /* clients that had gone before they were accepted */
	u32 short_of; /* times that no descriptor was left */
	s32 error;    /* of the listener: no client can come any more */
	u32 pad;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void accept(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_ACCEPT,
		.fd = job->listener,
		.user_data = ACCEPTED,
		.cq_idx = IO_CQ,
	};

	now->accepting++;
	submit(ctx, &sqe);
}

inline_always void greet(struct io_uring_bpf_ctx *ctx, const struct job *job, s32 fd)
{
	struct io_uring_sqe send = {
		.opcode = OP_SEND,
		.flags = SQE_IO_HARDLINK,
		.fd = fd,
		.addr = job->greeting,
		.len = job->greeting_bytes,
		.user_data = GREETED,
		.cq_idx = IO_CQ,
	};
	struct io_uring_sqe close = {
		.opcode = OP_CLOSE,
		.flags = LAST,
		.fd = fd,
		.user_data = CLOSED,
		.cq_idx = IO_CQ,
	};

	if (send.len > GREETING_MAX)
		send.len = GREETING_MAX;
	submit(ctx, &send);
	submit(ctx, &close);
}

inline_always void accepted(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, s32 res)
{
	now->accepting--;
	if (res >= 0) {
		now->accepted++;
		greet(ctx, job, res);
	} else if (res == -ECONNABORTED) {
		now->aborted++;
	} else if (res == -EMFILE || res == -ENFILE) {
		now->short_of++;
	} else if (!now->error) {
		now->error = res;
	}
}

RING_PROG(server)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < BATCH; i++) {
		if (reap(ctx, IO_CQ, &done))
			break;
		if (done.user_data == ACCEPTED)
			accepted(ctx, &job, now, done.res);
		else if (done.user_data == GREETED)
			now->greeted += done.res == (s32)job.greeting_bytes;
		else
			now->closed++;
	}
	/* Where descriptors ran out, one comes back with the next connection that is closed. */
	for (u32 i = 0; i < ACCEPTS_MAX; i++) {
		if (now->error || now->accepting >= job.accepts)
			break;
		if (now->accepted + now->accepting >= job.clients)
			break;
		accept(ctx, &job, now);
	}
	if (now->accepting || now->closed < now->accepted)
		return wait_for(ctx, IO_CQ, 1);
	emit(ctx, 0, now->accepted, now->error, 0);
	return finish(ctx);
}
