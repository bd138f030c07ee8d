// SPDX-License-Identifier: MIT
/* examples/02_ticker, moved to loop_step by hand from its skeleton: what io_uring_port.h promises. */
#define PORT_QUEUES 2
#include "io_uring_port.h"

LICENSE("Dual MIT/GPL");

#define TIMER_CQ 1
#define ETIME 62

struct shared {
	u64 user_data;
	u64 period; /* user address of a timespec */
	u32 wanted;
	u32 ticks;
};

u32 ticks;
u32 started;

PORT_STEP(ticker, struct shared)
{
	struct cqe fired;
	struct sqe *timer;

	if (!started) {
		started = 1;
		if (pop(TIMER_CQ, &fired) != NOTHING_THERE || fired.user_data)
			return finish(turn, 1);
	} else {
		if (pop(TIMER_CQ, &fired) || fired.res != -ETIME || fired.user_data != 0x71c)
			return finish(turn, 2);
		ticks++;
		shared->ticks = ticks;
		push(0, ticks, 0, 0);
	}
	if (ticks >= shared->wanted)
		return finish(turn, shared->user_data);
	timer = next_sqe(turn, TIMER_CQ, 0x71c);
	if (timer) {
		timer->opcode = OP_TIMEOUT;
		timer->addr = shared->period;
		timer->len = 1;
	}
	/* A completion of another queue: it wakes the step, but not the program. */
	timer = next_sqe(turn, 0, 0x10 + ticks);
	if (timer)
		timer->opcode = OP_NOP;
	return wait_for(turn, TIMER_CQ, 1);
}

RING_OPS(ticker_ops, ticker);
