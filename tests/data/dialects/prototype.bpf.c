// SPDX-License-Identifier: MIT
/* The prototype of 2024: a program type of its own, whose context stands for the ring. */
#include "dialect.h"

struct io_uring_bpf_ctx {};
#define RING struct io_uring_bpf_ctx
#define PROGRAM(name) SEC("iouring") int name(RING *ring)

extern int bpf_io_uring_submit_sqes(RING *ring, u32 nr) __ksym;
extern int bpf_io_uring_queue_sqe(RING *ring, void *mem, u32 size) __ksym;
extern int bpf_io_uring_get_cqe(RING *ring, struct io_uring_cqe *out) __ksym;
extern struct io_uring_cqe *bpf_io_uring_get_cqe2(RING *ring) __ksym;
extern int bpf_io_uring_set_wait_params(RING *ring, u32 nr) __ksym;

#define TAG 0x2024

u32 to_run, taken, steps, strangers, nr;
s32 answer, result;
u64 user_data;

/* One NOP after another, each submitted when the one before it was taken. */
PROGRAM(chain)
{
	struct io_uring_cqe *done = bpf_io_uring_get_cqe2(ring);
	struct sqe entry = {};

	steps++;
	if (done) {
		strangers += done->user_data != TAG;
		taken++;
	}
	if (taken >= to_run)
		return 1;
	entry.user_data = TAG;
	bpf_io_uring_queue_sqe(ring, &entry, sizeof(entry));
	if (bpf_io_uring_submit_sqes(ring, 1) != 1)
		return 1;
	return 0;
}

PROGRAM(answers)
{
	steps++;
	return answer;
}

PROGRAM(copies)
{
	struct io_uring_cqe out = { .user_data = ~0ull };

	result = bpf_io_uring_get_cqe(ring, &out);
	user_data = out.user_data;
	return 1;
}

PROGRAM(waits)
{
	bpf_io_uring_set_wait_params(ring, nr);
	return steps++ ? 1 : 0;
}

/* What the context holds was never written down. */
PROGRAM(unknown_context)
{
	return *(volatile u32 *)ring;
}

/* Refused. */
PROGRAM(no_null_check)
{
	return bpf_io_uring_get_cqe2(ring)->res;
}

PROGRAM(no_cqe)
{
	u64 half;

	return bpf_io_uring_get_cqe(ring, (struct io_uring_cqe *)&half);
}
