// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A file written with four blocks in flight at all times: whenever one is done, the next one is
 * submitted. user_data is the address of a `struct job`; the file is registered file 0.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define WRITES_CQ 1
#define DEPTH 4

struct job {
	u64 buffer; /* address of blocks * block_bytes bytes */
	u32 block_bytes;
	u32 blocks;
};

struct progress {
	struct job job; /* as the host wrote it */
	u32 next;      /* first block not yet submitted */
	u32 in_flight; /* never more than DEPTH */
	u32 written;   /* blocks that are in the file */
	u32 failed;    /* blocks that are not, or not completely */
};

ARRAY_OF(progress, struct progress, 1, 0);

RING_PROG(writer)
{
	struct io_uring_sqe write = {
		.opcode = OP_WRITE,
		.flags = SQE_FIXED_FILE,
		.fd = 0,
		.cq_idx = WRITES_CQ,
	};
	struct progress *now = map_lookup(&progress, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;

	for (u32 i = 0; i < DEPTH; i++) {
		if (reap(ctx, WRITES_CQ, &done))
			break;
		now->in_flight--;
		if (done.res == (s32)job.block_bytes)
			now->written++;
		else
			now->failed++;
	}

	for (u32 i = 0; i < DEPTH; i++) {
		if (now->in_flight >= DEPTH || now->next >= job.blocks)
			break;
		write.off = (u64)now->next * job.block_bytes;
		write.addr = job.buffer + write.off;
		write.len = job.block_bytes;
		write.user_data = now->next;
		submit(ctx, &write);
		now->next++;
		now->in_flight++;
	}
	if (!now->in_flight)
		return finish(ctx);
	return wait_for(ctx, WRITES_CQ, 1);
}
