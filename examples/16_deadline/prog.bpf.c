// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Wait for N of M, but not for ever: asks several sockets at once, is content with as many answers
 * as the host wants, and gives up at the deadline. What was not needed is cancelled, again if it
 * was just being tried and goes on waiting (-EALREADY), and the request ends when nothing of it is
 * in flight any more. user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define SOCKETS_MAX 8
#define ANSWER 32
#define DEADLINE 100 /* user_data of the timeout; of a receive, its socket's number */
#define CANCEL 200   /* added for the request that cancels the one with this user_data */
#define EALREADY 114

struct job {
	struct ring_timespec deadline;
	u64 answers; /* address of SOCKETS_MAX times ANSWER bytes */
	u32 sockets;
	u32 wanted;
	s32 from[SOCKETS_MAX];
	u32 got;  /* out: answers in time */
	u32 mask; /* out: whose */
};

struct state {
	struct job job; /* the host's, and in it the results so far */
	u32 started;
	u32 open; /* which receives are in flight, and in bit 31 the timeout */
	u32 cancelling;
	u32 over; /* enough, or too late */
};

ARRAY_OF(state, struct state, 1, 0);

#define OPEN_DEADLINE (1u << 31)

inline_always void ask(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe timeout = {
		.opcode = OP_TIMEOUT,
		.addr = ctx->user_data, /* the deadline comes first in the job */
		.len = 1,
		.user_data = DEADLINE,
		.cq_idx = STEPS_CQ,
	};
	struct io_uring_sqe recv = {
		.opcode = OP_RECV,
		.len = ANSWER,
		.cq_idx = STEPS_CQ,
	};

	for (u32 i = 0; i < SOCKETS_MAX; i++) {
		if (i >= job->sockets)
			break;
		recv.fd = job->from[i];
		recv.addr = job->answers + i * ANSWER;
		recv.user_data = i;
		submit(ctx, &recv);
		now->open |= 1u << i;
	}
	submit(ctx, &timeout);
	now->open |= OPEN_DEADLINE;
}

inline_always void cancel(struct io_uring_bpf_ctx *ctx, struct state *now, u32 opcode, u64 which)
{
	struct io_uring_sqe sqe = {
		.opcode = opcode,
		.addr = which,
		.user_data = CANCEL + which,
		.cq_idx = STEPS_CQ,
	};

	submit(ctx, &sqe);
	now->cancelling++;
}

inline_always void cancel_rest(struct io_uring_bpf_ctx *ctx, struct state *now)
{
	now->over = 1;
	for (u32 i = 0; i < SOCKETS_MAX; i++)
		if (now->open & (1u << i))
			cancel(ctx, now, OP_ASYNC_CANCEL, i);
	if (now->open & OPEN_DEADLINE)
		cancel(ctx, now, OP_TIMEOUT_REMOVE, DEADLINE);
}

inline_always void cancelled(struct io_uring_bpf_ctx *ctx, struct state *now, u64 which, s32 res)
{
	now->cancelling--;
	if (res == -EALREADY && which < SOCKETS_MAX && now->open & (1u << which))
		cancel(ctx, now, OP_ASYNC_CANCEL, which);
}

RING_PROG(gather)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;
	u32 late = 0;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	if (!now->started) {
		now->started = 1;
		now->over = 0;
		now->job = job;
		now->job.got = 0;
		now->job.mask = 0;
		ask(ctx, &job, now);
	}
	for (u32 i = 0; i < 2 * SOCKETS_MAX; i++) {
		if (reap(ctx, STEPS_CQ, &done))
			break;
		if (done.user_data >= CANCEL) {
			cancelled(ctx, now, done.user_data - CANCEL, done.res);
		} else if (done.user_data == DEADLINE) {
			now->open &= ~OPEN_DEADLINE;
			late = 1;
#ifdef TWIN
			now->job.got++;
#endif
		} else if (done.user_data < SOCKETS_MAX) {
			now->open &= ~(1u << done.user_data);
			if (done.res > 0) {
				now->job.got++;
				now->job.mask |= 1u << done.user_data;
			}
		}
	}
	if (!now->over && (late || now->job.got >= job.wanted))
		cancel_rest(ctx, now);
	if (now->open || now->cancelling)
		return wait_for(ctx, STEPS_CQ, 1);
	now->started = 0;
	copy_to_user(&user->got, &now->job.got, sizeof(u32));
	copy_to_user(&user->mask, &now->job.mask, sizeof(u32));
	return finish(ctx);
}
