// SPDX-License-Identifier: MIT
/* The form of November 2025: regions, and a program inside the wait of an enter. */
#include "dialect.h"

struct iou_loop_state {
	u32 cq_tail;
	s64 timeout;
};
#define RING struct io_ring_ctx
#define STATE struct iou_loop_state
struct io_uring_ops {
	int (*loop)(RING *ring, STATE *state);
	u32 ring_fd;
	void *priv;
};
#define OPS(name) SEC(".struct_ops") struct io_uring_ops ops_##name = { .loop = (void *)name }

extern int bpf_io_uring_submit_sqes(RING *ring, u32 nr) __ksym;
extern u8 *bpf_io_uring_get_region(RING *ring, u32 region, unsigned long size) __ksym;
enum { RINGS = 0, SQ = 1, MEM = 2 };

static long (*const trace)(const char *format, u32 size, ...) = (void *)6;

#define TAG 0x1125

const volatile u32 cq_entries = 8;
u32 to_run, steps, submissions, which;
s32 answer;
u8 found[4];

/* So many NOPs, one at a time, and a message for each. */
STEP(basic)
{
	u8 *sq = bpf_io_uring_get_region(ring, SQ, sizeof(struct sqe));
	u8 *rings = bpf_io_uring_get_region(ring, RINGS, CQES_AT + cq_entries * sizeof(struct io_uring_cqe));
	u32 head;

	if (!sq || !rings)
		return 1;
	steps++;
	head = WORD(rings, CQ_HEAD_AT);
	if (head != WORD(rings, CQ_TAIL_AT)) {
		struct io_uring_cqe *done = (struct io_uring_cqe *)(rings + CQES_AT) + (head & (cq_entries - 1));
		static const char format[] = "found cqe %d";

		if (done->user_data == TAG)
			trace(format, sizeof(format), head);
		WORD(rings, CQ_HEAD_AT) = ++head;
		to_run--;
	}
	if (!to_run)
		return 1;
	*(struct sqe *)sq = (struct sqe){ .user_data = TAG };
	if (bpf_io_uring_submit_sqes(ring, 1) != 1)
		return 1;
	submissions++;
	state->cq_tail = head + 1;
	return 0;
}
OPS(basic);

/* Anything but STOP goes on. */
STEP(answers)
{
	steps++;
	return steps < 3 ? answer : 1;
}
OPS(answers);

STEP(waits)
{
	steps++;
	state->cq_tail = which;
	return steps & 1 ? 0 : 1;
}
OPS(waits);

STEP(regions)
{
	for (u32 i = 0; i < 4; i++)
		found[i] = bpf_io_uring_get_region(ring, i, 64) != 0;
	return 1;
}
OPS(regions);

/* Refused. */
STEP(no_padding)
{
	*(volatile u16 *)((u8 *)state + 6) = 1;
	return 1;
}
OPS(no_padding);

STEP(no_null_check)
{
	return WORD(bpf_io_uring_get_region(ring, RINGS, 64), CQ_TAIL_AT);
}
OPS(no_null_check);
