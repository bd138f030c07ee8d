// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What a request works on comes with it: `drain` reads a socket to its end and counts, `score` adds
 * up for a group. A connection is a part of a buffer that the host shares, a group is an element of
 * a map; each request names its own, so there is no lookup, no copy, and nothing to tell apart.
 */
#include "iouring_x.h"

LICENSE("Dual MIT/GPL");

/* In the order in which the host registers them. */
enum { CONNS, GROUPS };
enum { DRAIN, SCORE };

struct conn {
	s32 fd;
	u32 cq;     /* a queue of its own */
	u64 buffer; /* address of `size` bytes */
	u32 size;
	u32 group;
	u64 bytes; /* out */
	u32 started;
	s32 error; /* out */
};

struct group {
	u64 bytes;
	u64 conns;
};

ARRAY_OF(groups, struct group, 4, 0);

inline_always void score_for(struct io_uring_bpf_ctx *ctx, const struct conn *conn)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_BPF,
		.flags = SQE_CQE_SKIP_SUCCESS,
		.off = SCORE,
		.rw_flags = BPF_CONTEXT,
		.buf_index = GROUPS,
		.addr = conn->group,
		.user_data = conn->bytes,
	};

	submit(ctx, &sqe);
}

RING_PROG(drain)
{
	struct conn *conn = more_of(ctx)->data;
	struct io_uring_sqe recv = { .opcode = OP_RECV };
	struct io_uring_cqe done;

#ifndef TWIN
	if ((void *)(conn + 1) > more_of(ctx)->data_end)
		return finish(ctx);
#endif
	if (conn->started && !reap(ctx, conn->cq, &done)) {
		if (done.res <= 0) {
			conn->error = done.res;
			score_for(ctx, conn);
			return finish(ctx);
		}
		conn->bytes += (u32)done.res;
	}
	conn->started = 1;
	recv.fd = conn->fd;
	recv.addr = conn->buffer;
	recv.len = conn->size;
	recv.cq_idx = conn->cq;
	submit(ctx, &recv);
	return wait_for(ctx, conn->cq, 1);
}

RING_PROG(score)
{
	struct group *group = more_of(ctx)->data;

	if ((void *)(group + 1) > more_of(ctx)->data_end)
		return finish(ctx);
	group->bytes += ctx->user_data;
	group->conns++;
	return finish(ctx);
}
