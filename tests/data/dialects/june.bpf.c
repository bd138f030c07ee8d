// SPDX-License-Identifier: MIT
/* The form of June 2025: the program runs inside the wait of an enter, and takes single CQEs. */
#include "dialect.h"

struct iou_loop_state {
	u32 target_cq_tail;
	s64 timeout;
};
#define RING struct io_ring_ctx
#define STATE struct iou_loop_state
struct io_uring_ops {
	u32 ring_fd;
	int (*handle_events)(RING *ring, STATE *state);
	void *ctx;
};
#define OPS(name) SEC(".struct_ops") struct io_uring_ops ops_##name = { .handle_events = (void *)name }

extern int bpf_io_uring_submit_sqes(RING *ring, u32 nr) __ksym;
extern int bpf_io_uring_queue_sqe(RING *ring, void *mem, u32 size) __ksym;
extern int bpf_io_uring_post_cqe(RING *ring, u64 data, u32 res, u32 flags) __ksym;
extern struct io_uring_cqe *bpf_io_uring_get_cqe(RING *ring, u32 index) __ksym;
extern struct io_uring_cqe *bpf_io_uring_extract_next_cqe(RING *ring) __ksym;

#define TAG 0x0625

u32 to_run, taken, steps, strangers, which;
s32 answer, result;

/* One NOP after another, each submitted when the one before it was taken. */
STEP(chain)
{
	struct io_uring_cqe *done = bpf_io_uring_extract_next_cqe(ring);
	struct sqe entry = {};

	steps++;
	if (done) {
		strangers += done->user_data != TAG;
		taken++;
	}
	if (taken >= to_run)
		return 1;
	entry.user_data = TAG;
	result = bpf_io_uring_queue_sqe(ring, &entry, sizeof(entry));
	if (bpf_io_uring_submit_sqes(ring, 1) != 1)
		return 1;
	state->target_cq_tail = taken + 1;
	return 0;
}
OPS(chain);

STEP(answers)
{
	steps++;
	return answer;
}
OPS(answers);

STEP(posts)
{
	steps++;
	result = bpf_io_uring_post_cqe(ring, 7, -5, 3);
	return 1;
}
OPS(posts);

STEP(looks)
{
	steps++;
	result = bpf_io_uring_get_cqe(ring, which)->res;
	return 1;
}
OPS(looks);

STEP(short_entry)
{
	u64 words[7] = {};

	result = bpf_io_uring_queue_sqe(ring, words, sizeof(words));
	return 1;
}
OPS(short_entry);

STEP(timed)
{
	steps++;
	state->timeout = 5;
	return 0;
}
OPS(timed);

/* Refused. */
STEP(no_padding)
{
	*(volatile u32 *)((u8 *)state + 4) = 1;
	return 1;
}
OPS(no_padding);

STEP(no_wide)
{
	*(volatile u64 *)state = 1;
	return 1;
}
OPS(no_wide);

STEP(no_ring_write)
{
	*(volatile u32 *)ring = 1;
	return 1;
}
OPS(no_ring_write);

STEP(no_null_check)
{
	result = bpf_io_uring_extract_next_cqe(ring)->res;
	return 1;
}
OPS(no_null_check);

STEP(no_cqe_write)
{
	*(volatile s32 *)&bpf_io_uring_get_cqe(ring, 0)->res = 1;
	return 1;
}
OPS(no_cqe_write);

STEP(no_entry)
{
	u8 half[32];

	result = bpf_io_uring_queue_sqe(ring, half, 64);
	return 1;
}
OPS(no_entry);

/* May not sleep. */
SEC("struct_ops/no_sleep") int no_sleep(u64 *args)
{
	return bpf_io_uring_submit_sqes((RING *)args[0], 1);
}
OPS(no_sleep);
