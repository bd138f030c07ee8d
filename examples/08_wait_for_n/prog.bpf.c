// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Fork and join: several timers at once, one continuation when the last of them has fired.
 * user_data is the address of a `struct team`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define TEAM_CQ 1
#define MEMBERS_MAX 16

struct team {
	u32 members; /* 1 to MEMBERS_MAX */
	u32 joined;  /* out */
	u64 sum;     /* out: of what the members brought back */
	struct ring_timespec sleep[MEMBERS_MAX];
};

/* arrival[k] is the member that came in as number k. */
ARRAY_OF(arrival, u64, MEMBERS_MAX, 0);

struct team team; /* the host's, read when the request starts */
u32 forked;

inline_always int join(struct io_uring_bpf_ctx *ctx, struct team *user)
{
	struct io_uring_cqe done;
	u32 joined = 0;
	u64 sum = 0;

	for (u32 i = 0; i < MEMBERS_MAX; i++) {
		u64 *place;

		if (i >= forked || reap(ctx, TEAM_CQ, &done))
			break;
		place = slot(&arrival, i);
		if (place)
			*place = done.user_data;
		joined++;
		sum += done.user_data;
	}
	copy_to_user(&user->joined, &joined, sizeof(joined));
	copy_to_user(&user->sum, &sum, sizeof(sum));
	forked = 0;
	return finish(ctx);
}

RING_PROG(fork_join)
{
	struct team *user = (struct team *)ctx->user_data;
	struct io_uring_sqe timer = { .opcode = OP_TIMEOUT, .len = 1, .cq_idx = TEAM_CQ };

	if (forked)
		return join(ctx, user);
	if (copy_from_user(&team, sizeof(team), user))
		return finish(ctx);
	if (team.members < 1 || team.members > MEMBERS_MAX)
		return finish(ctx);

	for (u32 i = 0; i < MEMBERS_MAX; i++) {
		if (i >= team.members)
			break;
		timer.addr = (u64)&user->sleep[i];
		timer.user_data = i + 1;
		submit(ctx, &timer);
	}
	forked = team.members;
	return wait_for(ctx, TEAM_CQ, team.members);
}
