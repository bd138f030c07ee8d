// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * An echo server for one client, for docs/debugging.md: it hangs on a message of 256 bytes or more.
 * With FIXED it does not. user_data of its request is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define BUFFER 1024

enum kind { ACCEPTED = 1, RECEIVED, SENT };

#ifdef FIXED
typedef s32 length;
#else
typedef u8 length;
#endif

struct job {
	u64 buffer;
	s32 listener;
};

struct state {
	struct job job; /* as the host wrote it */
	s32 fd;
	u32 echoed; /* messages */
	length want; /* bytes of the message that is sent back */
	u8 accepting;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void io(struct io_uring_bpf_ctx *ctx, u32 opcode, u32 kind, s32 fd, u64 addr,
		      u32 size)
{
	struct io_uring_sqe sqe = {
		.opcode = opcode,
		.fd = fd,
		.addr = addr,
		.len = size,
		.user_data = kind,
		.cq_idx = IO_CQ,
	};

	submit(ctx, &sqe);
}

RING_PROG(echo)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	if (!now->accepting) {
		now->accepting = 1;
		io(ctx, OP_ACCEPT, ACCEPTED, job.listener, 0, 0);
		return wait_for(ctx, IO_CQ, 1);
	}
	if (reap(ctx, IO_CQ, &done))
		return finish(ctx);
	if (done.res <= 0)
		return finish(ctx);
	if (done.user_data == ACCEPTED) {
		now->fd = done.res;
		io(ctx, OP_RECV, RECEIVED, now->fd, job.buffer, BUFFER);
	} else if (done.user_data == RECEIVED) {
		now->want = done.res;
		io(ctx, OP_SEND, SENT, now->fd, job.buffer, done.res);
	} else if (done.res == now->want) {
		now->echoed++;
		io(ctx, OP_RECV, RECEIVED, now->fd, job.buffer, BUFFER);
	}
	return wait_for(ctx, IO_CQ, 1);
}
