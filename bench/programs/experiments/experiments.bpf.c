// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What iouring-x has, beside the plain way of the third series. Programs of one kind do the same:
 * they change the state of a connection, in TURNS turns of one run or in one run after the other.
 */
#include "iouring_x.h"

LICENSE("Dual MIT/GPL");

#define TURNS 8000
#define RUNS 50
#define CQ 1

struct state {
	u64 bytes;
	u64 messages;
	u64 sum;
	u32 turns;
	u32 left; /* runs */
};

ARRAY_OF(states, struct state, 16, 0);

inline_always void change(struct state *state, u32 by)
{
	state->bytes += by;
	state->messages++;
	state->sum ^= by;
	state->turns++;
	asm volatile("" ::: "memory");
}

/* After TURNS turns: another run at once, by a completion that stays, until there were RUNS. */
inline_always int onward(struct io_uring_bpf_ctx *ctx, u32 turns)
{
	struct io_uring_cqe stays;

	if (turns == TURNS)
		emit(ctx, CQ, 0, 0, 0);
	if (turns < TURNS * RUNS)
		return wait_for(ctx, CQ, 1);
	reap(ctx, CQ, &stays);
	return finish(ctx);
}

/* Another run after a NOP. */
inline_always int again(struct io_uring_bpf_ctx *ctx)
{
	struct io_uring_sqe nop = { .cq_idx = CQ };

	submit(ctx, &nop);
	return wait_for(ctx, CQ, 1);
}

RING_PROG(turns_by_context)
{
	struct state *state = more_of(ctx)->data;

	if ((void *)(state + 1) > more_of(ctx)->data_end)
		return finish(ctx);
	for (u32 i = 0; i < TURNS; i++)
		change(state, i);
	return onward(ctx, state->turns);
}

RING_PROG(turns_by_lookup)
{
	u32 key = (u32)ctx->user_data;

	u32 turns = 0;

	for (u32 i = 0; i < TURNS; i++) {
		struct state *state = map_lookup(&states, &key);

		if (!state)
			return finish(ctx);
		change(state, i);
		turns = state->turns;
	}
	return onward(ctx, turns);
}

RING_PROG(turns_by_copy)
{
	struct state *user = (struct state *)ctx->user_data;
	struct state state = {};

	for (u32 i = 0; i < TURNS; i++) {
		if (copy_from_user(&state, sizeof(state), user))
			return finish(ctx);
		change(&state, i);
		copy_to_user(user, &state, sizeof(state));
	}
	return onward(ctx, state.turns);
}

RING_PROG(runs_by_context)
{
	struct state *state = more_of(ctx)->data;
	struct io_uring_cqe done;

	if ((void *)(state + 1) > more_of(ctx)->data_end)
		return finish(ctx);
	reap(ctx, CQ, &done);
	change(state, (u32)done.res);
	if (!state->left)
		return finish(ctx);
	state->left--;
	return again(ctx);
}

RING_PROG(runs_by_lookup)
{
	u32 key = (u32)ctx->user_data;
	struct state *state = map_lookup(&states, &key);
	struct io_uring_cqe done;

	reap(ctx, CQ, &done);
	if (!state)
		return finish(ctx);
	change(state, (u32)done.res);
	if (!state->left)
		return finish(ctx);
	state->left--;
	return again(ctx);
}

RING_PROG(runs_by_copy)
{
	struct state *user = (struct state *)ctx->user_data;
	struct io_uring_cqe done;
	struct state state;

	reap(ctx, CQ, &done);
	if (copy_from_user(&state, sizeof(state), user))
		return finish(ctx);
	change(&state, (u32)done.res);
	if (!state.left)
		return finish(ctx);
	state.left--;
	copy_to_user(user, &state, sizeof(state));
	return again(ctx);
}

/* One job for one of many workers: all of them wait for it, or it is handed to an idle one. */
#define JOBS_CQ 2
#define IDLE_CQ 3

RING_PROG(herd_worker)
{
	struct io_uring_cqe job;

	reap(ctx, JOBS_CQ, &job);
	return wait_for(ctx, JOBS_CQ, 1);
}

RING_PROG(desk_worker)
{
	struct io_uring_cqe job;

	reap(ctx, JOBS_CQ, &job);
	return wait_for(ctx, IDLE_CQ, 1);
}

RING_PROG(desk)
{
	struct io_uring_cqe job;

	if (!reap(ctx, CQ, &job)) {
		emit(ctx, JOBS_CQ, job.user_data, job.res, 0);
		requeue(ctx, IDLE_CQ, JOBS_CQ, 1);
	}
	return wait_for(ctx, CQ, 1);
}

/* What user_data points to, by plain accesses; the plain way are the copies above. */
RING_PROG(turns_by_pointer)
{
	struct state *state = more_of(ctx)->user;

	for (u32 i = 0; i < TURNS; i++)
		change(state, i);
	return onward(ctx, state->turns);
}

RING_PROG(runs_by_pointer)
{
	struct state *state = more_of(ctx)->user;
	struct io_uring_cqe done;

	reap(ctx, CQ, &done);
	change(state, (u32)done.res);
	if (!state->left)
		return finish(ctx);
	state->left--;
	return again(ctx);
}
