// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A priority scheduler: a queue for each class, one job at a time, the most urgent first; but after
 * FAIR jobs that may have passed others it looks from the other end once. A program can wait for
 * one queue only: that is the bell, which gets a completion with each job and with each end of one.
 * user_data is the address of a `struct job`; a job's user_data is its name.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define CLASSES 3 /* CQ 1, the most urgent, to CQ 3 */
#define BELL_CQ 4
#define RINGS 32
#define FAIR 3
#define DONE 1 /* user_data of the bell when the work is done, 0 when a job came */

/* The twin (twin.bpf.c) has two classes more than there are queues for. */
#ifndef LOWEST
#define LOWEST CLASSES
#endif

struct job {
	struct ring_timespec work; /* what a job takes */
	u32 jobs;                  /* to serve before the request ends */
	u32 pad;
};

struct state {
	struct job job; /* as the host wrote it */
	u32 served;
	u32 working;
	u32 passed; /* jobs in a row that may have passed less urgent ones */
	u32 class;  /* of the job that is worked on */
	u64 name;
};

ARRAY_OF(state, struct state, 1, 0);

/* Takes the next job out of its queue: 1, or 0 if there is none. */
inline_always u32 take(struct io_uring_bpf_ctx *ctx, struct state *now)
{
	u32 fair = now->passed >= FAIR;
	struct io_uring_cqe job;

	for (u32 i = 1; i <= LOWEST; i++) {
		u32 class = fair ? LOWEST + 1 - i : i;

		if (reap(ctx, class, &job))
			continue;
		now->passed = class == LOWEST ? 0 : now->passed + 1;
		if (fair)
			now->passed = 0;
		now->class = class;
		now->name = job.user_data;
		return 1;
	}
	return 0;
}

RING_PROG(scheduler)
{
	struct job *user = (struct job *)ctx->user_data;
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_sqe work = {
		.opcode = OP_TIMEOUT,
		.addr = (u64)&user->work,
		.len = 1,
		.user_data = DONE,
		.cq_idx = BELL_CQ,
	};
	struct io_uring_cqe ring;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), user))
		return finish(ctx);
	now->job = job;
	for (u32 i = 0; i < RINGS; i++) {
		if (reap(ctx, BELL_CQ, &ring))
			break;
		if (ring.user_data != DONE)
			continue;
		now->working = 0;
		now->served++;
		emit(ctx, 0, now->name, now->class, 0);
	}
	if (now->served >= job.jobs)
		return finish(ctx);
	if (!now->working && take(ctx, now)) {
		now->working = 1;
		submit(ctx, &work);
	}
	return wait_for(ctx, BELL_CQ, 1);
}
