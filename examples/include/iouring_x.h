/* SPDX-License-Identifier: MIT */
/*
 * What iouring-x has beyond the third series of 2021 (docs/abi-x.md): compile with
 * -DIOURING_PROFILE=3. Sections are `uring.x`, so that nobody takes the object for one of that.
 */
#ifndef IOURING_X_H
#define IOURING_X_H

#include "iouring_bpf.h"

#if IOURING_PROFILE != 3
#error "iouring_x.h builds upon the third series: compile with -DIOURING_PROFILE=3"
#endif

#undef RING_PROG
#define RING_PROG(name) SEC("uring.x") int name(struct io_uring_bpf_ctx *ctx)

/* What r1 points to: the context of the third series, and more. */
struct io_uring_bpf_x {
	struct io_uring_bpf_ctx ring;
	void *data; /* the memory that the request named; none: both are NULL */
	void *data_end;
	void *user; /* what user_data points to, where a contract declares it as pinned */
};

#define more_of(ctx) ((struct io_uring_bpf_x *)(ctx))

/* rw_flags of a BPF request: buf_index names a descriptor, addr an element or a first byte. */
#define BPF_CONTEXT 1

/* Up to `most` requests that wait on `cq` wait on CQ `to` instead; TO_LINK: the oldest goes on when
 * the requests before it in the open chain are done. How many were moved, or -EINVAL. */
HELPER(1001, long, requeue, struct io_uring_bpf_ctx *, u32 cq, u32 to, u32 most);
#define TO_LINK (~0u)

#endif
