// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Retry with back-off: opens a file that may not be there yet. After each failure it waits twice as
 * long as before, and after the last attempt it says what went wrong. The host hears of the end
 * only: a descriptor, or the last error. user_data is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define SECOND 1000000000LL

/* The twin (twin.bpf.c) tells the host of every attempt. */
#ifndef TOLD
#define TOLD(res) (res >= 0 || now->job.made >= job.attempts)
#endif

struct job {
	struct ring_timespec delay; /* before the first retry; the program changes it */
	u64 path;
	u32 attempts; /* at most */
	u32 made;     /* out */
};

enum step { START, TRYING, WAITING };

struct state {
	struct job job; /* the host's, and in it the results so far */
	s64 delay_ns;
	u32 step;
	u32 pad;
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void attempt(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe open = {
		.opcode = OP_OPENAT,
		.fd = AT_FDCWD,
		.addr = job->path,
		.cq_idx = STEPS_CQ,
	};

	now->job.made++;
	now->step = TRYING;
	submit(ctx, &open);
}

inline_always void back_off(struct io_uring_bpf_ctx *ctx, struct job *user, struct state *now)
{
	struct ring_timespec delay = { .tv_sec = 0, .tv_nsec = now->delay_ns };
	struct io_uring_sqe timeout = {
		.opcode = OP_TIMEOUT,
		.addr = (u64)&user->delay,
		.len = 1,
		.cq_idx = STEPS_CQ,
	};

	copy_to_user(&user->delay, &delay, sizeof(delay));
	now->delay_ns *= 2;
	if (now->delay_ns >= SECOND)
		now->delay_ns = SECOND - 1;
	now->step = WAITING;
	submit(ctx, &timeout);
}

RING_PROG(retry)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);

	if (now->step == START) {
		now->job = job;
		now->job.made = 0;
		now->delay_ns = job.delay.tv_nsec;
		attempt(ctx, &job, now);
		return wait_for(ctx, STEPS_CQ, 1);
	}
	if (reap(ctx, STEPS_CQ, &done))
		return wait_for(ctx, STEPS_CQ, 1);
	if (now->step == WAITING) {
		attempt(ctx, &job, now);
	} else {
		s32 res = done.res;

		if (TOLD(res))
			emit(ctx, 0, now->job.made, res, 0);
		if (res >= 0 || now->job.made >= job.attempts) {
			now->step = START;
			copy_to_user(&user->made, &now->job.made, sizeof(u32));
			return finish(ctx);
		}
		back_off(ctx, user, now);
	}
	return wait_for(ctx, STEPS_CQ, 1);
}
