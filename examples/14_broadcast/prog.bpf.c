// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * tee: what one socket says goes to many. Each message is sent to all of them at once and the next
 * one received when the last has taken it: the slowest sets the pace, and nobody gets half of two
 * messages. Who can not be sent to any more is left out. user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define SINKS_MAX 8
#define BATCH 3 /* completions looked at in a run */
#define BUFFER 4096
#define RECEIVED SINKS_MAX /* user_data of a receive; of a send, its sink's number */

struct job {
	u64 buffer; /* address of BUFFER bytes */
	s32 from;
	u32 sinks; /* at most SINKS_MAX */
	s32 to[SINKS_MAX];
};

struct sink {
	u64 bytes; /* taken so far, of all messages */
	u32 put;   /* of this one */
	u32 gone;
};

struct state {
	struct job job; /* as the host wrote it */
	u64 bytes;      /* received */
	u32 messages;
	u32 have;       /* bytes of the message that is being sent */
	u32 in_flight;
	u32 pad;
};

ARRAY_OF(sinks, struct sink, SINKS_MAX, 0);
ARRAY_OF(state, struct state, 1, 0);

inline_always struct sink *sink_of(u32 index)
{
	return map_lookup(&sinks, &index);
}

inline_always void receive(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe recv = {
		.opcode = OP_RECV,
		.fd = job->from,
		.addr = job->buffer,
		.len = BUFFER,
		.user_data = RECEIVED,
		.cq_idx = STEPS_CQ,
	};

	submit(ctx, &recv);
	now->in_flight++;
}

/* What sink `index` has not got yet. */
inline_always void send_rest(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct state *now, u32 index)
{
	struct io_uring_sqe send = {
		.opcode = OP_SEND,
		.addr = job->buffer,
		.user_data = index,
		.cq_idx = STEPS_CQ,
	};
	struct sink *sink = sink_of(index);
	u32 put, have = now->have;

	if (!sink || sink->gone)
		return;
	put = sink->put;
	if (put >= BUFFER || have > BUFFER || put >= have)
		return;
	send.fd = job->to[index];
	send.addr += put;
	send.len = BUFFER - put;
	if (send.len > have - put)
		send.len = have - put;
	submit(ctx, &send);
	now->in_flight++;
}

inline_always void broadcast(struct io_uring_bpf_ctx *ctx, const struct job *job,
			     struct state *now, u32 have)
{
	now->have = have;
	now->messages++;
	now->bytes += have;
	for (u32 i = 0; i < SINKS_MAX; i++) {
		struct sink *sink = sink_of(i);

		if (!sink || i >= job->sinks)
			break;
		sink->put = 0;
		send_rest(ctx, job, now, i);
	}
#ifdef TWIN
	receive(ctx, job, now);
#endif
}

inline_always void sent(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now,
			u32 index, s32 res)
{
	struct sink *sink = sink_of(index);

	if (!sink)
		return;
	if (res <= 0) {
		sink->gone = 1;
		return;
	}
	sink->put += res;
	sink->bytes += res;
	send_rest(ctx, job, now, index);
}

RING_PROG(tee)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;
	u32 ended = 0;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < BATCH; i++) {
		if (reap(ctx, STEPS_CQ, &done))
			break;
		now->in_flight--;
		if (done.user_data < SINKS_MAX)
			sent(ctx, &job, now, done.user_data, done.res);
		else if (done.res > 0)
			broadcast(ctx, &job, now, done.res);
		else
			ended = 1;
	}
	if (ended) {
		emit(ctx, 0, now->bytes, now->messages, 0);
		return finish(ctx);
	}
	if (!now->in_flight)
		receive(ctx, &job, now);
	return wait_for(ctx, STEPS_CQ, 1);
}
