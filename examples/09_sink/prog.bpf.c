// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A sink: completions that nobody wants go to a queue that nobody reads. When it is full they are
 * dropped and counted, and nothing else happens: every request still runs. user_data is a number
 * of requests to make, at most 1000.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define SINK_CQ 1
#define REQUESTS_MAX 1000

struct account {
	u64 accepted;    /* submits that said 1 */
	s64 emit_answer; /* what a direct emit into the full queue says */
};

ARRAY_OF(account, struct account, 1, 0);

RING_PROG(flood)
{
	struct account *now = map_lookup(&account, &(u32){ 0 });
	struct io_uring_sqe nop = { .opcode = OP_NOP, .cq_idx = SINK_CQ };
	u64 requests = ctx->user_data;

	if (!now)
		return finish(ctx);
	for (u32 i = 0; i < REQUESTS_MAX; i++) {
		if (i >= requests)
			break;
		nop.user_data = i;
		if (submit(ctx, &nop) == 1)
			now->accepted++;
	}
	now->emit_answer = emit(ctx, SINK_CQ, 0xdead, 0, 0);
	return finish(ctx);
}
