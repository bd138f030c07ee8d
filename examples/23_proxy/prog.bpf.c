// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A proxy: a session is two sockets, a client and one of the host's connections to a server, and
 * each of its two sides is carried to the other by itself. The end of one side is passed on as
 * such (the other may have much to say yet); when both have ended, or one is broken, both sockets
 * are closed. user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define IO_CQ 1
#define BATCH 6
#define SESSIONS_MAX 128
#define BUFFER 4096
#define SHUT_BOTH 2

enum kind { ACCEPTED, RECEIVED, SENT, SHUT, CLOSED };

/* user_data of every request: what, in which session, and which side's bytes it is about. */
#define TOKEN(kind, side, session) ((u64)(session) << 16 | (side) << 8 | (kind))

/* The twin (twin.bpf.c) keeps the end of a stream to itself. */
#ifndef PASSED_ON
#define PASSED_ON 1
#endif

struct job {
	u64 buffers; /* address of two buffers for each session */
	u64 servers; /* address of the descriptors of the connections to servers */
	s32 listener;
	u32 sessions; /* as many as there are connections to servers, at most SESSIONS_MAX */
};

struct session {
	s32 fd[2];     /* the client's, the server's */
	u32 have[2];   /* bytes in the buffer of what this one said */
	u32 put[2];    /* of them sent to the other */
	u32 in_flight; /* requests of both sides */
	u32 closing;
};

struct state {
	struct job job; /* as the host wrote it */
	u64 bytes[2];   /* carried from clients, from servers */
	u32 accepting;
	u32 accepted;
	u32 over;
	u32 broken; /* sessions that ended by an error */
	s32 error;  /* of the listener */
	u32 pad;
};

ARRAY_OF(sessions, struct session, SESSIONS_MAX, 0);
ARRAY_OF(state, struct state, 1, 0);

inline_always struct session *session_of(u32 index)
{
	return map_lookup(&sessions, &index);
}

inline_always void request(struct io_uring_bpf_ctx *ctx, struct session *session, u32 opcode,
			   s32 fd, u64 addr, u32 len, u64 token)
{
	struct io_uring_sqe sqe = {
		.opcode = opcode,
		.fd = fd,
		.addr = addr,
		.len = len,
		.user_data = token,
		.cq_idx = IO_CQ,
	};

	session->in_flight++;
	submit(ctx, &sqe);
}

inline_always u64 buffer_of(const struct job *job, u32 index, u32 side)
{
	return job->buffers + (2 * index + side) * BUFFER;
}

inline_always void receive(struct io_uring_bpf_ctx *ctx, const struct job *job,
			   struct session *session, u32 index, u32 side)
{
	request(ctx, session, OP_RECV, session->fd[side], buffer_of(job, index, side), BUFFER,
		TOKEN(RECEIVED, side, index));
}

inline_always void send_rest(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct session *session, u32 index, u32 side)
{
	u32 have = session->have[side], put = session->put[side];

	if (have > BUFFER || put >= have)
		return;
	request(ctx, session, OP_SEND, session->fd[!side], buffer_of(job, index, side) + put,
		have - put, TOKEN(SENT, side, index));
}

inline_always void accept_next(struct io_uring_bpf_ctx *ctx, const struct job *job,
			       struct state *now)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_ACCEPT,
		.fd = job->listener,
		.user_data = TOKEN(ACCEPTED, 0, 0),
		.cq_idx = IO_CQ,
	};

	if (now->accepting || now->error || now->accepted >= job->sessions)
		return;
	now->accepting = 1;
	submit(ctx, &sqe);
}

/* A client came: it gets the next connection to a server. */
inline_always void accepted(struct io_uring_bpf_ctx *ctx, const struct job *job,
			    struct state *now, s32 res)
{
	u32 index = now->accepted;
	struct session *session = session_of(index);

	now->accepting = 0;
	if (res < 0) {
		if (res != -ECONNABORTED)
			now->error = res;
		return;
	}
	if (!session || index >= SESSIONS_MAX)
		return;
	session->fd[0] = res;
	if (copy_from_user(&session->fd[1], sizeof(s32), (void *)(job->servers + index * 4)))
		return;
	now->accepted++;
	receive(ctx, job, session, index, 0);
	receive(ctx, job, session, index, 1);
}

/* What a side said has got somewhere, or has not. */
inline_always void moved(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now,
			 struct session *session, u32 index, u32 kind, u32 side, s32 res)
{
	if (res < 0 || (kind == SENT && !res)) {
		/* Whatever else of the session is in flight comes to its end now. */
		now->broken++;
		request(ctx, session, OP_SHUTDOWN, session->fd[0], 0, SHUT_BOTH, TOKEN(SHUT, 0, index));
		request(ctx, session, OP_SHUTDOWN, session->fd[1], 0, SHUT_BOTH, TOKEN(SHUT, 1, index));
		return;
	}
	if (kind == RECEIVED && !res) {
		if (PASSED_ON)
			request(ctx, session, OP_SHUTDOWN, session->fd[!side], 0, SHUT_WR,
				TOKEN(SHUT, side, index));
		return;
	}
	if (kind == RECEIVED) {
		session->have[side] = res;
		session->put[side] = 0;
	} else {
		session->put[side] += res;
		now->bytes[side] += res;
		if (session->put[side] >= session->have[side]) {
			receive(ctx, job, session, index, side);
			return;
		}
	}
	send_rest(ctx, job, session, index, side);
}

RING_PROG(proxy)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < BATCH; i++) {
		struct session *session;
		u32 kind, side;
		u64 index;
		s32 res;

		if (reap(ctx, IO_CQ, &done))
			break;
		kind = done.user_data & 0xff;
		side = done.user_data >> 8 & 1;
		index = done.user_data >> 16;
		res = done.res;
		if (kind == ACCEPTED) {
			accepted(ctx, &job, now, res);
			accept_next(ctx, &job, now);
			continue;
		}
		if (index >= SESSIONS_MAX)
			continue;
		session = session_of(index);
		if (!session)
			continue;
		session->in_flight--;
		if (kind == RECEIVED || kind == SENT)
			moved(ctx, &job, now, session, index, kind, side, res);
		if (session->in_flight)
			continue;
		if (session->closing) {
			now->over++;
			continue;
		}
		session->closing = 1;
		request(ctx, session, OP_CLOSE, session->fd[0], 0, 0, TOKEN(CLOSED, 0, index));
		request(ctx, session, OP_CLOSE, session->fd[1], 0, 0, TOKEN(CLOSED, 1, index));
	}
	accept_next(ctx, &job, now);
	if (now->accepting || now->over < now->accepted)
		return wait_for(ctx, IO_CQ, 1);
	emit(ctx, 0, now->over, now->error, 0);
	return finish(ctx);
}
