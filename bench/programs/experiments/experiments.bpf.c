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

/* A counter in user memory: by atomic instructions, or by copies, which lose what others count. */
RING_PROG(turns_by_atomic)
{
	struct state *state = more_of(ctx)->user;

	for (u32 i = 0; i < TURNS; i++)
		__sync_fetch_and_add(&state->bytes, 1);
	state->turns += TURNS;
	return onward(ctx, state->turns);
}

RING_PROG(counts_by_copy)
{
	struct state *user = (struct state *)ctx->user_data;
	u32 turns = 0;
	u64 bytes;

	for (u32 i = 0; i < TURNS; i++) {
		if (copy_from_user(&bytes, sizeof(bytes), &user->bytes))
			return finish(ctx);
		bytes++;
		copy_to_user(&user->bytes, &bytes, sizeof(bytes));
	}
	copy_from_user(&turns, sizeof(turns), &user->turns);
	turns += TURNS;
	copy_to_user(&user->turns, &turns, sizeof(turns));
	return onward(ctx, turns);
}

/* The host tells a program of something, and it answers: by a futex, or by a completion. */
RING_PROG(told_by_futex)
{
	struct state *state = more_of(ctx)->user;
	u32 now = *(volatile u32 *)&state->turns;

	if (now)
		emit(ctx, 0, now, 0, 0);
	return wait_for_word(ctx, ctx->user_data + __builtin_offsetof(struct state, turns), now);
}

RING_PROG(told_by_cqe)
{
	struct io_uring_cqe told;

	if (!reap(ctx, CQ, &told))
		emit(ctx, 0, told.user_data, 0, 0);
	return wait_for(ctx, CQ, 1);
}
