// SPDX-License-Identifier: MIT
/*
 * What an object with a loop may hold beside the one program and its struct: sections that are not
 * loaded unasked, several forms of the struct, programs of other types, one that nothing names.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* Kernels compare the name up to the three underscores. */
struct io_uring_bpf_ops___wider {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	u32 ring_fd;
	u64 of_later; /* no kernel has it: it must be zero */
};

struct io_uring_bpf_ops___other {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	u64 ring_fd; /* 32 bits in the kernel */
};

/* What every kernel since 6.2 has, and what none has. */
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;
extern int bpf_io_uring_of_later(struct iou_ctx *ring) __ksym __weak;

u32 steps;

SEC("struct_ops.s") int plain(u64 *args)
{
	steps++;
	return LOOP_STOP;
}

SEC("?struct_ops.s/asked") int asked(u64 *args)
{
	steps += 10;
	return LOOP_STOP;
}

/* Nothing names it: whose arguments it has can not be told. */
SEC("struct_ops.s/unnamed") int unnamed(u64 *args)
{
	return *(volatile u32 *)args[1];
}

SEC("struct_ops.s/") int protected(u64 *args)
{
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return LOOP_STOP;
}

SEC("struct_ops.s/") int guarded(u64 *args)
{
	return bpf_rcu_read_lock ? LOOP_STOP : LOOP_CONTINUE;
}

SEC("struct_ops.s/") int of_later(u64 *args)
{
	return bpf_io_uring_of_later((struct iou_ctx *)args[0]);
}

SEC("syscall") int beside(void *ctx)
{
	return steps;
}

/* It has the context of its own type, not a loop's. */
SEC("xdp") int packet(u64 *args)
{
	return *(volatile u64 *)(args + 1) & 1;
}

SEC(".struct_ops") struct io_uring_bpf_ops by_update = { .loop_step = (void *)plain };
SEC(".struct_ops.link") struct io_uring_bpf_ops by_link = { .loop_step = (void *)plain };
SEC("?.struct_ops.link") struct io_uring_bpf_ops if_asked = { .loop_step = (void *)asked };
SEC(".struct_ops.link") struct io_uring_bpf_ops___wider wider = { .loop_step = (void *)plain };
SEC(".struct_ops.link") struct io_uring_bpf_ops___other other = { .loop_step = (void *)plain };
RING_OPS(ops_protected, protected);
RING_OPS(ops_guarded, guarded);
RING_OPS(ops_of_later, of_later);
