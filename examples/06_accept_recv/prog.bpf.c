// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A server without an event loop: each step is a pair "I/O, then the program that looks at its
 * result", tied by a hard link, so that the program runs even when the I/O failed.
 *
 *   start ──► ACCEPT ─► on_accept ──► RECV ─► on_recv ──► RECV ─► on_recv ... CLOSE, ACCEPT, ...
 *
 * user_data of every request is the address of the `struct server`. Results of I/O arrive on CQ 1;
 * the programs' own completions go to CQ 2, which nobody reads (the v3 ABI posts none at all).
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define SINK_CQ 2

/* Slots of the registered programs, in the order the host registers them. */
enum slot_of { START, ON_ACCEPT, ON_RECV };

struct server {
	s32 listener;
	u32 clients; /* how many to serve, one after the other */
	u64 buffer;
	u32 buffer_bytes;
	u32 checksum; /* out: sum of every byte received */
};

struct state {
	struct server server; /* as the host described it when it started */
	u32 served;
	s32 fd;
	u64 bytes; /* received from this client */
};

ARRAY_OF(state, struct state, 1, 0);

/* "Do `io`, then run the program in slot `next`." */
inline_always void pair(struct io_uring_bpf_ctx *ctx, struct io_uring_sqe *io, u32 next)
{
	struct io_uring_sqe then = {
		.opcode = OP_BPF,
		.flags = HAS_CQE_SKIP ? SQE_CQE_SKIP_SUCCESS : 0,
		.off = next,
		.user_data = ctx->user_data,
		.cq_idx = SINK_CQ,
	};

	io->flags |= SQE_IO_HARDLINK;
	io->cq_idx = IO_CQ;
	submit(ctx, io);
	submit(ctx, &then);
}

inline_always void accept_next(struct io_uring_bpf_ctx *ctx, s32 listener)
{
	struct io_uring_sqe io = { .opcode = OP_ACCEPT, .fd = listener };

	pair(ctx, &io, ON_ACCEPT);
}

inline_always void recv_next(struct io_uring_bpf_ctx *ctx, s32 fd, const struct server *server)
{
	struct io_uring_sqe io = {
		.opcode = OP_RECV,
		.fd = fd,
		.addr = server->buffer,
		.len = server->buffer_bytes,
	};

	pair(ctx, &io, ON_RECV);
}

RING_PROG(start)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });

	if (!now || copy_from_user(&now->server, sizeof(now->server), (void *)ctx->user_data))
		return finish(ctx);
	accept_next(ctx, now->server.listener);
	return finish(ctx);
}

RING_PROG(on_accept)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;

	if (!now)
		return finish(ctx);
	if (reap(ctx, IO_CQ, &done) || done.res < 0) {
		emit(ctx, 0, 0, done.res, 0);
		return finish(ctx);
	}
	now->fd = done.res;
	now->bytes = 0;
	recv_next(ctx, now->fd, &now->server);
	return finish(ctx);
}

RING_PROG(on_recv)
{
	struct server *user = (struct server *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	u8 head[64] = {};
	u32 length;

	if (!now || reap(ctx, IO_CQ, &done))
		return finish(ctx);

	if (done.res <= 0) { /* the client has gone: report it, close, and take the next one */
		struct io_uring_sqe close = { .opcode = OP_CLOSE, .fd = now->fd, .cq_idx = SINK_CQ };

		submit(ctx, &close);
		now->served++;
		emit(ctx, 0, 1000 + now->served, now->bytes, 0);
		if (now->served < now->server.clients)
			accept_next(ctx, now->server.listener);
		return finish(ctx);
	}

	length = done.res;
	now->bytes += length;
	if (length > sizeof(head))
		length = sizeof(head);
	copy_from_user(head, sizeof(head), (void *)now->server.buffer);
	for (u32 i = 0; i < sizeof(head); i++) {
		if (i >= length)
			break;
		now->server.checksum += head[i];
	}
	copy_to_user(&user->checksum, &now->server.checksum, sizeof(u32));
	emit(ctx, 0, now->served + 1, done.res, 0);
	recv_next(ctx, now->fd, &now->server);
	return finish(ctx);
}
