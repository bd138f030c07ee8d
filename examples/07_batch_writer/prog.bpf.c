// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A long job in short pieces: one request writes a batch of records, submits a successor of
 * itself, and ends. The successor waits for the batch, counts it, and goes on. user_data is the
 * address of a `struct job`; the file is registered file 0, the program is in slot 0.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define WRITES_CQ 1
#define SINK_CQ 2
#define BATCH 100

struct job {
	u64 record; /* address of the record, written over and over */
	u32 record_bytes;
	u32 records;
};

struct progress {
	struct job job; /* as the host wrote it */
	u32 submitted;
	u32 written;
	u32 failed;
	u32 generations; /* requests that submitted a batch */
};

ARRAY_OF(progress, struct progress, 1, 0);

RING_PROG(batch)
{
	struct progress *now = map_lookup(&progress, &(u32){ 0 });
	struct io_uring_sqe sqe = {
		.opcode = OP_WRITE,
		.flags = SQE_FIXED_FILE,
		.fd = 0,
		.cq_idx = WRITES_CQ,
	};
	struct io_uring_cqe done;
	struct job job;
	u32 in_flight;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;

	for (u32 i = 0; i < BATCH; i++) {
		if (reap(ctx, WRITES_CQ, &done))
			break;
		if (done.res == (s32)job.record_bytes)
			now->written++;
		else
			now->failed++;
	}
	in_flight = now->submitted - now->written - now->failed;
	if (in_flight)
		return wait_for(ctx, WRITES_CQ, in_flight);

	if (now->submitted >= job.records) {
		emit(ctx, 0, now->generations, now->written, 0);
		return finish(ctx);
	}

	sqe.addr = job.record;
	sqe.len = job.record_bytes;
	for (u32 i = 0; i < BATCH; i++) {
		if (now->submitted >= job.records)
			break;
		sqe.off = (u64)now->submitted * job.record_bytes;
		submit(ctx, &sqe);
		now->submitted++;
	}
	now->generations++;

	__builtin_memset(&sqe, 0, sizeof(sqe));
	sqe.opcode = OP_BPF;
	sqe.flags = HAS_CQE_SKIP ? SQE_CQE_SKIP_SUCCESS : 0;
	sqe.off = 0;
	sqe.user_data = ctx->user_data;
	sqe.cq_idx = SINK_CQ;
	submit(ctx, &sqe);
	return finish(ctx);
}
