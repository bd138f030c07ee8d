// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A log writer with group commit: an fsync costs much the same for one record as for sixteen, so
 * while one is under way new records gather, and the next takes them all. A record is acknowledged
 * (a completion with its number, res 0 or what went wrong) when it is durable, not before. Records
 * to write are completions in CQ 1. user_data of the request is the address of a `struct job`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define RECORDS_CQ 1
#define STEPS_CQ 2
#define RECORD 32
#define RECORDS_MAX 64
#define BATCH 16
#define WRITTEN 1
#define SYNCED 2

/* When a batch is acknowledged; the twin (twin.bpf.c) is earlier. */
#ifndef DURABLE
#define DURABLE SYNCED
#endif

struct job {
	u64 records; /* address of RECORDS_MAX records */
	u64 batch;   /* address of BATCH records */
	s32 log;
	u32 count; /* records to acknowledge before the request ends */
};

struct state {
	struct job job; /* as the host wrote it */
	u64 at;         /* end of the log */
	u32 have;       /* bytes of the batch */
	u32 put;        /* of them written */
	u32 size;       /* records of the batch */
	s32 error;
	u32 acknowledged;
	u32 syncs;
	u64 numbers[BATCH];
};

ARRAY_OF(state, struct state, 1, 0);

inline_always void commit(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_sqe write = {
		.opcode = OP_WRITE,
		.flags = SQE_IO_LINK, /* a short or failed write breaks the chain: no fsync */
		.fd = job->log,
		.off = now->at,
		.user_data = WRITTEN,
		.cq_idx = STEPS_CQ,
	};
	struct io_uring_sqe sync = {
		.opcode = OP_FSYNC,
		.fd = job->log,
		.user_data = SYNCED,
		.cq_idx = STEPS_CQ,
	};
	u32 put = now->put, have = now->have;

	if (have > BATCH * RECORD || put >= have)
		return;
	write.addr = job->batch + put;
	write.len = have - put;
	submit(ctx, &write);
	submit(ctx, &sync);
}

/* Records that have gathered, up to a batch of them. */
inline_always void gather(struct io_uring_bpf_ctx *ctx, const struct job *job, struct state *now)
{
	struct io_uring_cqe record;
	u8 bytes[RECORD];
	u32 size = 0;

	for (u32 i = 0; i < BATCH; i++) {
		u64 number;

		if (reap(ctx, RECORDS_CQ, &record))
			break;
		number = record.user_data;
		if (number >= RECORDS_MAX)
			continue;
		copy_from_user(bytes, RECORD, (void *)(job->records + number * RECORD));
		if (size >= BATCH)
			break;
		copy_to_user((void *)(job->batch + size * RECORD), bytes, RECORD);
		now->numbers[size] = number;
		size++;
	}
	now->size = size;
	now->have = size * RECORD;
	now->put = 0;
	now->error = 0;
}

inline_always void acknowledge(struct io_uring_bpf_ctx *ctx, struct state *now)
{
	for (u32 i = 0; i < BATCH; i++) {
		if (i >= now->size)
			break;
		emit(ctx, 0, now->numbers[i], now->error, 0);
		now->acknowledged++;
	}
}

RING_PROG(logger)
{
	struct state *now = map_lookup(&state, &(u32){ 0 });
	struct io_uring_cqe done;
	struct job job;
	u32 synced = 0;

	if (!now || copy_from_user(&job, sizeof(job), (void *)ctx->user_data))
		return finish(ctx);
	now->job = job;

	for (u32 i = 0; i < 2; i++) {
		if (reap(ctx, STEPS_CQ, &done))
			break;
		if (done.user_data == WRITTEN) {
			if (done.res <= 0) {
				now->error = done.res ? done.res : -EIO;
			} else {
				now->put += done.res;
				now->at += done.res;
			}
		} else {
			synced = 1;
			now->syncs++;
			if (done.res < 0 && done.res != -ECANCELED)
				now->error = done.res;
		}
		if (done.user_data == DURABLE && (now->error || now->put >= now->have))
			acknowledge(ctx, now);
	}
	if (now->size && !synced)
		return wait_for(ctx, STEPS_CQ, 1);
	if (now->error || now->put >= now->have)
		now->size = 0; /* the batch is done with */
	if (now->acknowledged >= job.count)
		return finish(ctx);
	if (!now->size)
		gather(ctx, &job, now);
	if (!now->size)
		return wait_for(ctx, RECORDS_CQ, 1);
	commit(ctx, &job, now);
	return wait_for(ctx, STEPS_CQ, 2);
}
