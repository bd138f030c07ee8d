// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Ticker: a timeout, rearmed by the program each time it fires. user_data is the address of a
 * `struct order`; the host may read `ticks` there at any time, and gets a CQE for each tick.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define TIMER_CQ 1

struct order {
	struct ring_timespec period;
	u32 wanted;
	u32 ticks;
};

u32 ticks; /* .bss: zero when the object is loaded, kept from run to run */
struct order order; /* a copy of the host's, read in the first run */

RING_PROG(ticker)
{
	struct order *user = (struct order *)ctx->user_data;
	struct io_uring_sqe timer = {
		.opcode = OP_TIMEOUT,
		.addr = (u64)&user->period,
		.len = 1,
		.user_data = 0x71c,
		.cq_idx = TIMER_CQ,
	};
	struct io_uring_cqe fired;

	if (!order.wanted) {
		if (copy_from_user(&order, sizeof(order), user) || !order.wanted)
			return finish(ctx);
	} else {
		if (reap(ctx, TIMER_CQ, &fired) || fired.res != -ETIME)
			return finish(ctx);
		ticks++;
		copy_to_user(&user->ticks, &ticks, sizeof(ticks));
		emit(ctx, 0, ticks, 0, 0);
	}
	if (ticks >= order.wanted)
		return finish(ctx);
	submit(ctx, &timer);
	return wait_for(ctx, TIMER_CQ, 1);
}
