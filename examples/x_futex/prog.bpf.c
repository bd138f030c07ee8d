// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Tickets that host and programs share: a word of user memory says how many there are. `worker`
 * takes one by an atomic instruction, or sleeps on the word until somebody who gives tickets wakes
 * it, as threads do with a semaphore. No completion and no queue tells it.
 */
#include "iouring_x.h"

LICENSE("Dual MIT/GPL");

#define CLOSED (~0u) /* no tickets, and never again */
#define TRIES 4

struct gate {
	u32 tickets;
	u32 taken;
};

/* What others change at any moment is loaded once, where it stands. */
#define once(word) (*(volatile u32 *)&(word))

/* Take one of `free` tickets: how many there were, which is another number if somebody was faster.
 * A function of its own, so that the object says what a gate is. */
static __attribute__((noinline)) u32 take(struct gate *gate, u32 free)
{
	u32 found = __sync_val_compare_and_swap(&gate->tickets, free, free - 1);

	if (found == free)
		__sync_fetch_and_add(&gate->taken, 1);
	return found;
}

RING_PROG(worker)
{
	struct gate *gate = more_of(ctx)->user;
	u32 free = once(gate->tickets);

	for (u32 i = 0; i < TRIES && free && free != CLOSED; i++) {
		u32 found = take(gate, free);

		if (found == free)
			return finish(ctx);
		free = found;
	}
	if (free)
		return finish(ctx); /* closed, or others were faster each time: without one */
#ifdef TWIN
	free = once(gate->tickets);
#endif
	return wait_for_word(ctx, ctx->user_data + __builtin_offsetof(struct gate, tickets), free);
}
