// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Ping-pong: two requests run the same program and play a ball over two queues. The ball is a
 * CQE whose user_data counts hits. user_data of a request is the address of its `struct player`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

struct player {
	u32 own_cq;  /* where the ball arrives */
	u32 peer_cq; /* where it is returned to */
	u32 rallies; /* the hit that ends the match */
	u32 hits;    /* out: how often this player hit the ball */
};

/* The players as they were after their last hit, by the queue they listen to. */
ARRAY_OF(players, struct player, 3, 0);

RING_PROG(player)
{
	struct player *user = (struct player *)ctx->user_data;
	struct player me;
	struct io_uring_cqe ball;
	struct player *seen;
	u64 hit;

	if (copy_from_user(&me, sizeof(me), user))
		return finish(ctx);
	if (reap(ctx, me.own_cq, &ball))
		return wait_for(ctx, me.own_cq, 1);
	if (ball.user_data >= me.rallies)
		return finish(ctx);

	hit = ball.user_data + 1;
	me.hits++;
	seen = map_lookup(&players, &me.own_cq);
	if (seen)
		*seen = me;
	copy_to_user(&user->hits, &me.hits, sizeof(me.hits));
	emit(ctx, me.peer_cq, hit, 0, 0);
	if (hit == me.rallies)
		return finish(ctx);
	return wait_for(ctx, me.own_cq, 1);
}
