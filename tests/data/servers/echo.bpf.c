// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * An echo server for many clients at a time, one program that looks at whatever has completed:
 *
 *   multishot ACCEPT ─► for each connection: RECV ─► SEND, all of it ─► RECV ... end ─► CLOSE
 *
 * A connection is its descriptor; it has the buffer with that number. Results come to CQ 1, where
 * user_data says what completed and for whom. The host's request stays parked for ever.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define ACCEPT_MULTISHOT 1
#define MSG_WAITALL 0x100
#define F_MORE 2
#define REAPED_MAX 64 /* in one run */

enum what { ACCEPT = 1, RECV, SEND, CLOSE };

struct server {
	s32 listener;
	u32 buffer_bytes;
	u64 buffers;
	u32 connections; /* so many buffers */
};

struct state {
	struct server server;
	u32 started;
	u64 accepted;
	u64 closed;
	u64 received; /* bytes */
	u64 sent;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void next(struct io_uring_bpf_ctx *ctx, struct io_uring_sqe *sqe, u32 what)
{
	sqe->user_data = (u64)what << 32 | (u32)sqe->fd;
	sqe->cq_idx = IO_CQ;
	submit(ctx, sqe);
}

inline_always void transfer(struct io_uring_bpf_ctx *ctx, struct state *now, s32 fd, u32 what,
			    u32 length)
{
	struct io_uring_sqe io = {
		.opcode = what == RECV ? OP_RECV : OP_SEND,
		.fd = fd,
		.addr = now->server.buffers + (u64)(u32)fd * now->server.buffer_bytes,
		.len = length,
		.msg_flags = what == RECV ? 0 : MSG_WAITALL,
	};

	next(ctx, &io, what);
}

inline_always void close_it(struct io_uring_bpf_ctx *ctx, s32 fd)
{
	struct io_uring_sqe io = { .opcode = OP_CLOSE, .fd = fd };

	next(ctx, &io, CLOSE);
}

inline_always void accept_all(struct io_uring_bpf_ctx *ctx, s32 listener)
{
	struct io_uring_sqe io = {
		.opcode = OP_ACCEPT,
		.fd = listener,
		.ioprio = ACCEPT_MULTISHOT,
	};

	next(ctx, &io, ACCEPT);
}

RING_PROG(echo)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;

	if (!now)
		return finish(ctx);
	if (!now->started) {
		if (copy_from_user(&now->server, sizeof(now->server), (void *)ctx->user_data))
			return finish(ctx);
		now->started = 1;
		accept_all(ctx, now->server.listener);
		return wait_for(ctx, IO_CQ, 1);
	}
	for (u32 i = 0; i < REAPED_MAX; i++) {
		s32 fd;

		if (reap(ctx, IO_CQ, &done))
			break;
		fd = (u32)done.user_data;
		switch (done.user_data >> 32) {
		case ACCEPT:
			if (done.res >= 0 && (u32)done.res < now->server.connections) {
				now->accepted++;
				transfer(ctx, now, done.res, RECV, now->server.buffer_bytes);
			} else if (done.res >= 0) {
				close_it(ctx, done.res);
			}
			if (!(done.flags & F_MORE))
				accept_all(ctx, now->server.listener);
			break;
		case RECV:
			if (done.res > 0) {
				now->received += done.res;
				transfer(ctx, now, fd, SEND, done.res);
			} else {
				close_it(ctx, fd);
			}
			break;
		case SEND:
			if (done.res > 0) {
				now->sent += done.res;
				transfer(ctx, now, fd, RECV, now->server.buffer_bytes);
			} else {
				close_it(ctx, fd);
			}
			break;
		case CLOSE:
			now->closed++;
			break;
		}
	}
	return wait_for(ctx, IO_CQ, 1);
}
