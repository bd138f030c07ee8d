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
	u64 futex; /* the word that wait_for_word waits for, and what it holds meanwhile */
	u32 futex_val;
	s32 futex_res; /* of the last wait: 0 woken, -EAGAIN it held something else, -errno */
};

#define more_of(ctx) ((struct io_uring_bpf_x *)(ctx))

/* rw_flags of a BPF request: buf_index names a descriptor, addr an element or a first byte. */
#define BPF_CONTEXT 1

/* Up to `most` requests that wait on `cq` wait on CQ `to` instead; TO_LINK: the oldest goes on when
 * the requests before it in the open chain are done. How many were moved, or -EINVAL. */
HELPER(1001, long, requeue, struct io_uring_bpf_ctx *, u32 cq, u32 to, u32 most);
#define TO_LINK (~0u)

/* `return wait_for_word(...)`: run the program again when somebody wakes the word at a user address,
 * at once if it does not hold `value`. */
inline_always int wait_for_word(struct io_uring_bpf_ctx *ctx, u64 word, u32 value)
{
	*(volatile u64 *)&more_of(ctx)->futex = word;
	*(volatile u32 *)&more_of(ctx)->futex_val = value;
	/* Or compilers make one store of this and finish()'s, through a changed context pointer. */
	asm volatile("" ::: "memory");
	return 2;
}

/* The request that wakes `most` of those who wait for a word: they are told by no completion. */
#define FUTEX_WAKE_SQE(word, most, cq)                                                         \
	{ .opcode = 52, .fd = 2, .addr = (word), .off = (most), .cq_idx = (cq), .pad1 = 0xffff }

#endif
