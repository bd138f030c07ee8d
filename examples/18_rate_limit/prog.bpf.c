// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A rate limiter: jobs wait in a queue of the ring, and at most `burst` of them are taken out of it
 * in a window of time, which begins with the first. No job is lost or refused; nobody polls. A job
 * is a completion in CQ 1, its user_data; job 0 is the last. user_data of the request is the address
 * of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define JOBS_CQ 1
#define TIMER_CQ 2
#define BURST_MAX 16

struct job {
	struct ring_timespec window;
	u32 burst; /* jobs in a window, at most BURST_MAX */
	u32 pad;
};

struct state {
	struct job job; /* as the host wrote it */
	u32 taken;      /* in this window */
	u32 windows;
	u32 armed; /* the timer runs */
	u32 over;  /* job 0 came: what is in flight is waited for */
	u64 served;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void arm(struct io_uring_bpf_ctx *ctx, struct job *user, struct state *now)
{
	struct io_uring_sqe timer = {
		.opcode = OP_TIMEOUT,
		.addr = (u64)&user->window,
		.len = 1,
		.user_data = 1,
		.cq_idx = TIMER_CQ,
	};

	submit(ctx, &timer);
	now->armed = 1;
	now->windows++;
}

/* No job comes any more: two completions are left, the timer's and that of its removal. */
inline_always int end(struct io_uring_bpf_ctx *ctx, struct state *now)
{
	struct io_uring_sqe remove = {
		.opcode = OP_TIMEOUT_REMOVE,
		.addr = 1,
		.user_data = 2,
		.cq_idx = TIMER_CQ,
	};

	if (!now->armed)
		return finish(ctx);
	submit(ctx, &remove);
	now->over = 1;
	return wait_for(ctx, TIMER_CQ, 2);
}

inline_always int wait_for_window(struct io_uring_bpf_ctx *ctx)
{
#ifdef TWIN
	ctx_set(ctx, wait_idx, TIMER_CQ);
	return RETURN_WAIT;
#else
	return wait_for(ctx, TIMER_CQ, 1);
#endif
}

RING_PROG(limiter)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	if (now->over) {
		reap(ctx, TIMER_CQ, &done);
		reap(ctx, TIMER_CQ, &done);
		return finish(ctx);
	}
	now->job = job;
	if (now->armed && !reap(ctx, TIMER_CQ, &done)) {
		now->armed = 0;
		now->taken = 0;
	}
	for (u32 i = 0; i < BURST_MAX; i++) {
		if (now->taken >= job.burst)
			return wait_for_window(ctx);
		if (reap(ctx, JOBS_CQ, &done))
			return wait_for(ctx, JOBS_CQ, 1);
		if (!done.user_data)
			return end(ctx, now);
		if (!now->armed)
			arm(ctx, user, now);
		now->taken++;
		now->served++;
		emit(ctx, 0, done.user_data, now->windows, 0);
	}
	return wait_for_window(ctx);
}
