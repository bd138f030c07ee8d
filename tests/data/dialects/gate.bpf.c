// SPDX-License-Identifier: MIT
/* The poll gate of May 2026: whether a wake of a poll counts, by what the socket holds. */
#include "dialect.h"

struct event {};
struct iou_ctx {};
struct iou_loop_params {
	u32 cq_wait_idx;
};
struct io_uring_bpf_ops {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	u32 ring_fd;
	int (*poll_gate)(struct event *event);
};
#define OPS(name) SEC(".struct_ops.link") struct io_uring_bpf_ops ops_##name = { .poll_gate = (void *)name }

struct sock_state {
	u32 inq, rcvbuf, rmem_alloc, mss;
};
extern int bpf_io_uring_sock_state(struct event *event, void *out, u32 size) __ksym;
extern int bpf_io_uring_sock_peek(struct event *event, void *buf, u32 size) __ksym;

/* Fires when there are 64 bytes, or the first of them says that there are no more. */
SEC("struct_ops/enough") int enough(u64 *args)
{
	struct event *event = (struct event *)args[0];
	struct sock_state state;
	u8 first;

	if (bpf_io_uring_sock_state(event, &state, sizeof(state)))
		return 0;
	if (state.inq >= 64)
		return 0;
	return bpf_io_uring_sock_peek(event, &first, 1) != 1 || first != 'q';
}
OPS(enough);

/* Fires when the host says so; what it found the host can see. */
u32 asked, fires, answer_state, answer_peek;
struct sock_state found;
u8 looked[4];

SEC("struct_ops/told") int told(u64 *args)
{
	struct event *event = (struct event *)args[0];
	struct sock_state state = {};
	u8 bytes[4] = {};

	asked++;
	answer_state = bpf_io_uring_sock_state(event, &state, sizeof(state));
	answer_peek = bpf_io_uring_sock_peek(event, bytes, sizeof(bytes));
	found = state;
	__builtin_memcpy(looked, bytes, sizeof(bytes));
	return !fires;
}
OPS(told);

u32 answer_size;

SEC("struct_ops/short_room") int short_room(u64 *args)
{
	u64 half[1];

	answer_size = bpf_io_uring_sock_state((struct event *)args[0], half, sizeof(half));
	return 0;
}
OPS(short_room);

/* Both on one ring: the step stops at once. */
u32 steps;

SEC("struct_ops.s/step") int step(u64 *args)
{
	steps++;
	return 1;
}
SEC(".struct_ops.link") struct io_uring_bpf_ops ops_both = {
	.loop_step = (void *)step,
	.poll_gate = (void *)told,
};
SEC(".struct_ops.link") struct io_uring_bpf_ops ops_neither = {};

/* Refused. */
SEC("struct_ops.s/no_sleep") int no_sleep(u64 *args)
{
	return 0;
}
OPS(no_sleep);

SEC("struct_ops/no_look") int no_look(u64 *args)
{
	return *(volatile u32 *)args[0];
}
OPS(no_look);

SEC("struct_ops/no_room") int no_room(u64 *args)
{
	u32 half[2];

	return bpf_io_uring_sock_state((struct event *)args[0], half, 16);
}
OPS(no_room);

SEC("struct_ops/no_second") int no_second(u64 *args)
{
	return args[1] != 0;
}
OPS(no_second);
