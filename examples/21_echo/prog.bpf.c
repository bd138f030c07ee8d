// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * An echo server for up to a thousand connections at once, in one program: it takes the results of
 * I/O out of one queue, and submits what comes next for that connection. A connection is a slot: a
 * number in user_data, its state in a map, its buffer in user memory. Where no slot is free nobody
 * is accepted; who does not read is not read from. user_data of the request is the address of a
 * `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define BATCH 8
#define SLOTS_MAX 1024
#define BUFFER 1024

enum kind { ACCEPTED, RECEIVED, SENT, CLOSED };

#define TOKEN(kind, slot) ((u64)(slot) << 8 | (kind))

/* The twin (twin.bpf.c) knows the end of a stream, and no errors. */
#ifndef GONE
#define GONE(res) ((res) <= 0)
#endif

struct job {
	u64 buffers; /* address of a buffer for each slot */
	s32 listener;
	u32 slots;   /* connections at a time, at most SLOTS_MAX */
	u64 clients; /* to serve before the request ends */
};

struct connection {
	s32 fd;
	u32 have; /* bytes in the buffer */
	u32 put;  /* of them sent */
	u32 next; /* in the list of free slots */
};

struct state {
	struct job job; /* as the host wrote it */
	u64 bytes;      /* sent back */
	u64 served;
	u32 accepting;
	u32 connected;
	u32 most;       /* the largest `connected` there was */
	u32 used;       /* slots that were ever used */
	u32 free;       /* the first free one of them, plus 1 */
	s32 error;      /* of the listener */
};

ARRAY_OF(connections, struct connection, SLOTS_MAX, 0);
ARRAY_OF(state, struct state, 1, 0);

inline_always struct connection *connection_of(u32 slot)
{
	return map_lookup(&connections, &slot);
}

inline_always void accept_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			       struct state *now)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_ACCEPT,
		.fd = job->listener,
		.user_data = TOKEN(ACCEPTED, 0),
		.cq_idx = IO_CQ,
	};

	if (now->accepting || now->error || now->connected >= job->slots ||
	    now->served + now->connected >= job->clients)
		return;
	now->accepting = 1;
	submit(ctx, &sqe);
}

/* Receives into the buffer, or sends what is in it. */
inline_always void transfer(struct io_uring_bpf_ctx *ctx, const struct job *job, s32 fd, u32 slot,
			    u32 kind, u32 at, u32 size)
{
	struct io_uring_sqe sqe = {
		.opcode = kind == SENT ? OP_SEND : OP_RECV,
		.fd = fd,
		.addr = job->buffers + (u64)slot * BUFFER + at,
		.len = size,
		.user_data = TOKEN(kind, slot),
		.cq_idx = IO_CQ,
	};

	submit(ctx, &sqe);
}

inline_always void close_slot(struct io_uring_bpf_ctx *ctx, s32 fd, u32 slot)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_CLOSE,
		.fd = fd,
		.user_data = TOKEN(CLOSED, slot),
		.cq_idx = IO_CQ,
	};

	submit(ctx, &sqe);
}

inline_always void accepted(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, s32 fd)
{
	struct connection *connection;
	u32 slot;

	now->accepting = 0;
	if (fd < 0) {
		if (fd != -ECONNABORTED)
			now->error = fd;
		return;
	}
	slot = now->free ? now->free - 1 : now->used;
	if (slot >= SLOTS_MAX)
		return;
	connection = connection_of(slot);
	if (!connection)
		return;
	if (now->free)
		now->free = connection->next;
	else
		now->used++;
	connection->fd = fd;
	now->connected++;
	if (now->connected > now->most)
		now->most = now->connected;
	transfer(ctx, job, fd, slot, RECEIVED, 0, BUFFER);
}

/* What is in a buffer is sent before more is received. */
inline_always void moved(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now,
			 struct connection *connection, u32 slot, u32 kind, s32 res)
{
	s32 fd = connection->fd;
	u32 put, have;

	if (GONE(res)) {
		close_slot(ctx, fd, slot);
		return;
	}
	if (kind == RECEIVED) {
		connection->have = res;
		connection->put = 0;
		transfer(ctx, job, fd, slot, SENT, 0, res);
		return;
	}
	now->bytes += res;
	put = connection->put + res;
	have = connection->have;
	connection->put = put;
	if (put < have && have <= BUFFER)
		transfer(ctx, job, fd, slot, SENT, put, have - put);
	else
		transfer(ctx, job, fd, slot, RECEIVED, 0, BUFFER);
}

RING_PROG(echo)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < BATCH; i++) {
		struct connection *connection;
		u64 slot;
		u32 kind;
		s32 res;

		if (reap(ctx, IO_CQ, &done))
			break;
		kind = done.user_data & 0xff;
		slot = done.user_data >> 8;
		res = done.res;
		if (kind == ACCEPTED) {
			accepted(ctx, &job, now, res);
			accept_next(ctx, &job, now);
			continue;
		}
		if (slot >= SLOTS_MAX)
			continue;
		connection = connection_of(slot);
		if (!connection)
			continue;
		if (kind != CLOSED) {
			moved(ctx, &job, now, connection, slot, kind, res);
			continue;
		}
		connection->next = now->free;
		now->free = slot + 1;
		now->connected--;
		now->served++;
	}
	accept_next(ctx, &job, now);
	if (now->accepting || now->connected)
		return wait_for(ctx, IO_CQ, 1);
	emit(ctx, 0, now->served, now->error, 0);
	return finish(ctx);
}
