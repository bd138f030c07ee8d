// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A protocol parser that asks user space only where it has to. A frame is a u32 (bytes that follow,
 * little-endian) and these bytes, the first of which says what it is. Pings are answered here;
 * anything else is left where it is and reported on CQ 0: user_data the connection, res the length.
 * User space answers by a completion in CQ 1 of kind ANSWERED, with a frame in the connection's
 * output buffer. Frames may come in pieces, or several at once. user_data is the address of a
 * `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define BATCH 4
#define SLOTS_MAX 64
#define BUFFER 256
#define HEADER 4
#define PING 1
#define PONG 2

enum kind { ACCEPTED, RECEIVED, SENT, CLOSED, ANSWERED };

/* user_data of every request: what, of which connection; of ANSWERED also how many bytes. */
#define TOKEN(kind, slot) ((u64)(slot) << 8 | (kind))

/* The length is not ours: the twin (twin.bpf.c) compares it as a signed number. */
#ifndef LENGTH
#define LENGTH u32
#endif

struct job {
	u64 in;  /* address of a buffer for each slot, what clients send */
	u64 out; /* the same, what they get */
	s32 listener;
	u32 clients; /* to serve before the request ends */
};

struct connection {
	s32 fd;
	u32 have;      /* bytes in the input buffer */
	u32 frame;     /* bytes of the frame that is being answered */
	u32 answer;    /* bytes in the output buffer */
	u32 put;       /* of them sent */
	u32 escalated; /* user space has the frame */
	u32 next;      /* in the list of free slots */
	u32 pad;
};

struct state {
	struct job job; /* as the host wrote it */
	u32 accepting;
	u32 connected;
	u32 served;
	u32 pings;
	u32 escalations;
	u32 violations; /* connections closed for what they sent */
	u32 used;       /* slots that were ever used */
	u32 free;       /* the first free one of them, plus 1 */
	s32 error;      /* of the listener */
};

/* Twice a buffer: a frame's rest is copied from wherever the frame ends. */
struct scratch {
	u8 bytes[2 * BUFFER];
};

ARRAY_OF(connections, struct connection, SLOTS_MAX, 0);
ARRAY_OF(state, struct state, 1, 0);
ARRAY_OF(scratches, struct scratch, 1, 0);

inline_always struct connection *connection_of(u32 slot)
{
	return map_lookup(&connections, &slot);
}

inline_always void request(struct io_uring_bpf_ctx *ctx, u32 opcode, s32 fd, u64 addr, u32 len,
			   u64 token)
{
	struct io_uring_sqe sqe = {
		.opcode = opcode,
		.fd = fd,
		.addr = addr,
		.len = len,
		.user_data = token,
		.cq_idx = IO_CQ,
	};

	submit(ctx, &sqe);
}

inline_always void close_slot(struct io_uring_bpf_ctx *ctx, struct connection *connection, u32 slot)
{
	request(ctx, OP_CLOSE, connection->fd, 0, 0, TOKEN(CLOSED, slot));
}

inline_always void send_rest(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct connection *connection, u32 slot)
{
	u32 put = connection->put, answer = connection->answer;

	if (answer > BUFFER || put >= answer)
		return;
	request(ctx, OP_SEND, connection->fd, job->out + slot * BUFFER + put, answer - put,
		TOKEN(SENT, slot));
}

/* Looks at what there is of a frame: answers it, hands it on, or receives more. */
inline_always void parse(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now,
			 struct scratch *scratch, struct connection *connection, u32 slot)
{
	u32 have = connection->have;
	LENGTH length;

	if (have >= BUFFER) /* a whole frame is there: it is not longer than that */
		have = BUFFER;
	copy_from_user(scratch->bytes, BUFFER, (void *)(job->in + slot * BUFFER));
	length = *(u32 *)scratch->bytes;
	if (have >= HEADER && (length == 0 || length > BUFFER - HEADER)) {
		now->violations++;
		close_slot(ctx, connection, slot);
		return;
	}
	if (have < HEADER || have < (u32)length + HEADER) {
		if (have >= BUFFER)
			return;
		request(ctx, OP_RECV, connection->fd, job->in + slot * BUFFER + have,
			BUFFER - have, TOKEN(RECEIVED, slot));
		return;
	}
	connection->frame = length + HEADER;
	if (scratch->bytes[HEADER] != PING) {
		now->escalations++;
		connection->escalated = 1;
		emit(ctx, 0, slot, length, 0);
		return;
	}
	now->pings++;
	scratch->bytes[HEADER] = PONG;
	copy_to_user((void *)(job->out + slot * BUFFER), scratch->bytes, length + HEADER);
	connection->answer = length + HEADER;
	connection->put = 0;
	send_rest(ctx, job, connection, slot);
}

/* The answer is sent: what came behind the frame becomes the first in the buffer. */
inline_always void next_frame(const struct job *job, struct scratch *scratch,
			      struct connection *connection, u32 slot)
{
	void *in = (void *)(job->in + slot * BUFFER);
	u32 frame = connection->frame;

	if (frame > BUFFER || connection->have < frame)
		return;
	copy_from_user(scratch->bytes, BUFFER, in);
	copy_to_user(in, scratch->bytes + frame, BUFFER);
	connection->have -= frame;
	connection->frame = 0;
}

inline_always void accept_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			       struct state *now)
{
	if (now->accepting || now->error || now->connected >= SLOTS_MAX ||
	    now->served + now->connected >= job->clients)
		return;
	now->accepting = 1;
	request(ctx, OP_ACCEPT, job->listener, 0, 0, TOKEN(ACCEPTED, 0));
}

/* A slot for a connection: one that was given back, or the next that was never used. */
inline_always u32 take_slot(struct state *now)
{
	u32 slot = now->free ? now->free - 1 : now->used;
	struct connection *connection = connection_of(slot);

	if (!connection)
		return SLOTS_MAX;
	if (now->free)
		now->free = connection->next;
	else
		now->used++;
	return slot;
}

RING_PROG(parser)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct scratch *scratch = map_lookup(&scratches, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || !scratch || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < BATCH; i++) {
		struct connection *connection;
		u32 kind, slot, bytes;
		s32 res;

		if (reap(ctx, IO_CQ, &done))
			break;
		kind = done.user_data & 0xff;
		slot = done.user_data >> 8 & 0xffff;
		bytes = done.user_data >> 32;
		res = done.res;
		if (kind == ACCEPTED) {
			now->accepting = 0;
			if (res < 0) {
				if (res != -ECONNABORTED)
					now->error = res;
				accept_next(ctx, &job, now);
				continue;
			}
			slot = take_slot(now);
		}
		if (slot >= SLOTS_MAX)
			continue;
		connection = connection_of(slot);
		if (!connection)
			continue;
		switch (kind) {
		case ACCEPTED:
			__builtin_memset(connection, 0, sizeof(*connection));
			connection->fd = res;
			now->connected++;
			accept_next(ctx, &job, now);
			break;
		case RECEIVED:
			if (res <= 0) {
				close_slot(ctx, connection, slot);
				continue;
			}
			connection->have += res;
			break;
		case ANSWERED:
			if (!connection->escalated || bytes > BUFFER)
				continue;
			connection->escalated = 0;
			connection->answer = bytes;
			connection->put = 0;
			if (bytes) {
				send_rest(ctx, &job, connection, slot);
				continue;
			}
			next_frame(&job, scratch, connection, slot);
			break;
		case SENT:
			if (res <= 0) {
				close_slot(ctx, connection, slot);
				continue;
			}
			connection->put += res;
			if (connection->put < connection->answer) {
				send_rest(ctx, &job, connection, slot);
				continue;
			}
			next_frame(&job, scratch, connection, slot);
			break;
		default:
			connection->next = now->free;
			now->free = slot + 1;
			now->connected--;
			now->served++;
			continue;
		}
		parse(ctx, &job, now, scratch, connection, slot);
	}
	accept_next(ctx, &job, now);
	if (now->accepting || now->connected)
		return wait_for(ctx, IO_CQ, 1);
	emit(ctx, 0, now->served, now->error, 0);
	return finish(ctx);
}
