// SPDX-License-Identifier: MIT
/*
 * What a kernel loads of programs with a loop, and what not: abi/iouring-bpf-upstream, 3.2, 3.4,
 * 4.8, 5.9. Names say which: `no_` is refused, `ok_` its accepted twin.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

/* No kernel has it; a weak function may be missing. */
extern int bpf_io_uring_not_there(struct iou_ctx *ring) __ksym __weak;

const volatile u32 fixed = 64;
const volatile u32 entries = 8;
const volatile u32 switched_on = 0;
u32 changing = 64;
u64 kept;
u64 sum;

#define STEP(name) RING_STEP(name)
#define OPS(name) RING_OPS(ops_##name, name)
#define REGION(id, size) bpf_io_uring_get_region(ring, id, size)

/* --- sizes and bounds --- */

STEP(ok_size_constant)
{
	u8 *cq = REGION(REGION_CQ, fixed);

	return cq ? cq[63] & 1 : LOOP_STOP;
}

STEP(no_size_variable)
{
	u8 *cq = REGION(REGION_CQ, *(volatile u32 *)&changing);

	return cq ? cq[63] & 1 : LOOP_STOP;
}

STEP(no_null_check)
{
	return REGION(REGION_CQ, 64)[0];
}

STEP(ok_last_byte)
{
	u8 *sq = REGION(REGION_SQ, 512);

	if (sq)
		*(volatile u8 *)(sq + 511) = 1;
	return LOOP_STOP;
}

STEP(no_byte_at_size)
{
	u8 *sq = REGION(REGION_SQ, 512);

	if (sq)
		*(volatile u8 *)(sq + 512) = 1;
	return LOOP_STOP;
}

STEP(no_byte_before)
{
	u8 *sq = REGION(REGION_SQ, 512);

	if (sq)
		*(volatile u8 *)(sq - 1) = 1;
	return LOOP_STOP;
}

STEP(ok_masked_index)
{
	u8 *cq = REGION(REGION_CQ, CQES_AT + entries * sizeof(struct cqe));

	if (!cq)
		return LOOP_STOP;
	sum += ((struct cqe *)(cq + CQES_AT))[WORD(cq, CQ_HEAD_AT) & (entries - 1)].user_data;
	return LOOP_STOP;
}

STEP(no_index_without_mask)
{
	u8 *cq = REGION(REGION_CQ, CQES_AT + entries * sizeof(struct cqe));

	if (!cq)
		return LOOP_STOP;
	sum += ((struct cqe *)(cq + CQES_AT))[WORD(cq, CQ_HEAD_AT)].user_data;
	return LOOP_STOP;
}

/* A size of 0: the rule of the parameter's name does not hold; one byte, read-only. */
STEP(ok_size_0_read)
{
	u8 *cq = REGION(REGION_CQ, 0);

	return cq ? *(volatile u8 *)cq & 1 : LOOP_STOP;
}

STEP(no_size_0_write)
{
	u8 *cq = REGION(REGION_CQ, 0);

	if (cq)
		*(volatile u8 *)cq = 1;
	return LOOP_STOP;
}

STEP(no_size_0_second_byte)
{
	u8 *cq = REGION(REGION_CQ, 0);

	return cq ? *(volatile u8 *)(cq + 1) & 1 : LOOP_STOP;
}

/* No region is as large as that: there never is one. Kernels keep 32 bits of the size. */
STEP(ok_size_huge)
{
	u8 *cq = REGION(REGION_CQ, (1ul << 32) + 64);

	return cq ? *(volatile u8 *)(cq + 63) & 1 : LOOP_STOP;
}

STEP(no_size_huge)
{
	u8 *cq = REGION(REGION_CQ, (1ul << 32) + 64);

	return cq ? *(volatile u8 *)(cq + 64) & 1 : LOOP_STOP;
}

STEP(no_size_of_32_zeros)
{
	u8 *cq = REGION(REGION_CQ, 1ul << 32);

	return cq ? *(volatile u8 *)cq & 1 : LOOP_STOP;
}

/* --- what one can do with a region --- */

STEP(ok_second_checked_first)
{
	u8 *sq = REGION(REGION_SQ, 64);
	u8 *cq = REGION(REGION_CQ, 64);

	if (!cq)
		return LOOP_STOP;
	if (!sq)
		return LOOP_STOP;
	*(volatile u8 *)sq = *(volatile u8 *)cq;
	return LOOP_STOP;
}

STEP(ok_after_submit)
{
	u8 *sq = REGION(REGION_SQ, 64);

	if (!sq)
		return LOOP_STOP;
	bpf_io_uring_submit_sqes(ring, 1);
	*(volatile u8 *)sq = 1;
	return LOOP_STOP;
}

STEP(ok_atomic)
{
	u8 *mem = REGION(REGION_MEM, 8);

	if (mem)
		__sync_fetch_and_add((u64 *)mem, 1);
	return LOOP_STOP;
}

STEP(ok_pointer_stored)
{
	u8 *mem = REGION(REGION_MEM, 8);

	if (mem)
		*(volatile u64 *)mem = (u64)mem;
	return LOOP_STOP;
}

STEP(no_pointer_kept)
{
	u8 *mem = (u8 *)*(volatile u64 *)&kept;

	if (mem)
		*(volatile u8 *)mem = 1;
	kept = (u64)REGION(REGION_MEM, 8);
	return LOOP_STOP;
}

static long (*const probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

STEP(ok_helper_memory)
{
	u8 *mem = REGION(REGION_MEM, 8);

	if (mem)
		probe_read_kernel(mem, 8, ring);
	return LOOP_STOP;
}

STEP(no_helper_memory)
{
	u8 *mem = REGION(REGION_MEM, 8);

	if (mem)
		probe_read_kernel(mem, 9, ring);
	return LOOP_STOP;
}

__attribute__((noinline)) static int fill(struct iou_ctx *ring, struct sqe *sq, u32 count)
{
	if (count > 8)
		return 0;
	for (u32 i = 0; i < count; i++)
		*(volatile u64 *)(sq + i) = 0;
	return bpf_io_uring_submit_sqes(ring, count);
}

STEP(ok_subprogram)
{
	u8 *sq = REGION(REGION_SQ, 512);

	if (sq && changing < 8)
		return fill(ring, (struct sqe *)sq, 8 - changing) & 1;
	return LOOP_STOP;
}

/* --- parameters and context --- */

#define PARAM(type, offset) (*(volatile type *)((u8 *)params + (offset)))

STEP(ok_params_1) { PARAM(u8, 3) = 1; return LOOP_STOP; }
STEP(ok_params_2) { PARAM(u16, 2) = 1; return LOOP_STOP; }
STEP(ok_params_4) { PARAM(u32, 0) = 1; return LOOP_STOP; }
STEP(ok_params_read) { return PARAM(u32, 0) & 1; }
STEP(no_params_8) { PARAM(u64, 0) = 1; return LOOP_STOP; }
STEP(no_params_at_4) { PARAM(u32, 4) = 1; return LOOP_STOP; }
STEP(no_params_across) { PARAM(u16, 3) = 1; return LOOP_STOP; }
STEP(no_params_before) { PARAM(u32, -4) = 1; return LOOP_STOP; }
STEP(no_ring_write) { *(volatile u32 *)ring = 1; return LOOP_STOP; }

/* Linux 7.1 shows the ring; from 7.2 on it is opaque. */
STEP(ring_read) { return *(volatile u32 *)ring & 1; }

SEC("struct_ops.s/") int no_args_write(u64 *args)
{
	*(volatile u64 *)args = 1;
	return LOOP_STOP;
}

SEC("struct_ops.s/") int no_args_third(u64 *args)
{
	return *(volatile u64 *)(args + 2) & 1;
}

SEC("struct_ops.s/") int no_args_half(u64 *args)
{
	return *(volatile u32 *)args & 1;
}

/* --- sleeping --- */

SEC("struct_ops/") int no_submit_unless_sleepable(u64 *args)
{
	return bpf_io_uring_submit_sqes((struct iou_ctx *)args[0], 1) & 1;
}

SEC("struct_ops/") int ok_region_unless_sleepable(u64 *args)
{
	u8 *cq = bpf_io_uring_get_region((struct iou_ctx *)args[0], REGION_CQ, 64);

	return cq ? *(volatile u8 *)cq & 1 : LOOP_STOP;
}

SEC("struct_ops.s/") int no_ring_is_no_number(u64 *args)
{
	return bpf_io_uring_submit_sqes((struct iou_ctx *)8, 1) & 1;
}

SEC("struct_ops.s/") int no_ring_is_not_params(u64 *args)
{
	return bpf_io_uring_submit_sqes((struct iou_ctx *)args[1], 1) & 1;
}

SEC("struct_ops.s/") int no_ring_is_no_region(u64 *args)
{
	u8 *mem = bpf_io_uring_get_region((struct iou_ctx *)args[0], REGION_MEM, 4096);

	return mem ? bpf_io_uring_submit_sqes((struct iou_ctx *)mem, 1) & 1 : LOOP_STOP;
}

SEC("struct_ops.s/") int no_ring_is_no_variable(u64 *args)
{
	return bpf_io_uring_submit_sqes((struct iou_ctx *)&kept, 1) & 1;
}

SEC("struct_ops.s/") int no_ring_is_no_stack(u64 *args)
{
	u64 own[2] = {};

	return bpf_io_uring_submit_sqes((struct iou_ctx *)own, 1) & 1;
}

/* --- global functions, which are judged by themselves --- */

__attribute__((noinline)) int waits(struct iou_loop_params *params __attribute__((btf_decl_tag("arg:trusted"))))
{
	params->cq_wait_idx = changing;
	return LOOP_CONTINUE;
}

__attribute__((noinline)) int waits_as_memory(struct iou_loop_params *params)
{
	return params ? *(volatile u32 *)params : LOOP_STOP;
}

__attribute__((noinline)) int clears(u64 *mem)
{
	if (mem)
		*(volatile u64 *)mem = 0;
	return LOOP_STOP;
}

STEP(ok_global_params) { return waits(params); }
STEP(no_global_ring_as_params) { return waits((struct iou_loop_params *)ring); }
STEP(no_global_null) { return waits(0); }
STEP(no_global_params_as_memory) { return waits_as_memory(params); }
STEP(ok_global_region) { return clears((u64 *)REGION(REGION_MEM, 8)); }
STEP(no_global_region_small) { return clears((u64 *)REGION(REGION_MEM, 7)); }

/* --- flow --- */

STEP(ok_loop_bounded)
{
	u8 *cq = REGION(REGION_CQ, 64);

	if (!cq)
		return LOOP_STOP;
	for (u32 i = 0; i < 64; i++)
		if (WORD(cq, CQ_TAIL_AT) == 7)
			break;
	return LOOP_STOP;
}

STEP(no_loop_unbounded)
{
	u8 *cq = REGION(REGION_CQ, 64);

	if (!cq)
		return LOOP_STOP;
	while (WORD(cq, CQ_TAIL_AT) != 7)
		;
	return LOOP_STOP;
}

STEP(ok_returns_5) { return 5; }
STEP(ok_returns_anything) { return *(volatile u32 *)&changing; }

STEP(no_weak_reached) { return bpf_io_uring_not_there(ring); }

STEP(ok_weak_switched_off)
{
	if (switched_on)
		return bpf_io_uring_not_there(ring);
	return LOOP_STOP;
}

STEP(ok_weak_asked_for)
{
	if (bpf_io_uring_not_there)
		return bpf_io_uring_not_there(ring);
	return LOOP_STOP;
}

OPS(ok_size_constant);
OPS(no_size_variable);
OPS(no_null_check);
OPS(ok_last_byte);
OPS(no_byte_at_size);
OPS(no_byte_before);
OPS(ok_masked_index);
OPS(no_index_without_mask);
OPS(ok_size_0_read);
OPS(no_size_0_write);
OPS(no_size_0_second_byte);
OPS(ok_size_huge);
OPS(no_size_huge);
OPS(no_size_of_32_zeros);
OPS(ok_second_checked_first);
OPS(ok_after_submit);
OPS(ok_atomic);
OPS(ok_pointer_stored);
OPS(no_pointer_kept);
OPS(ok_helper_memory);
OPS(no_helper_memory);
OPS(ok_subprogram);
OPS(ok_params_1);
OPS(ok_params_2);
OPS(ok_params_4);
OPS(ok_params_read);
OPS(no_params_8);
OPS(no_params_at_4);
OPS(no_params_across);
OPS(no_params_before);
OPS(no_ring_write);
OPS(ring_read);
OPS(ok_loop_bounded);
OPS(no_loop_unbounded);
OPS(ok_returns_5);
OPS(ok_returns_anything);
OPS(no_weak_reached);
OPS(ok_weak_switched_off);
OPS(ok_weak_asked_for);
OPS(no_args_write);
OPS(no_args_third);
OPS(no_args_half);
OPS(no_submit_unless_sleepable);
OPS(ok_region_unless_sleepable);
OPS(no_ring_is_no_number);
OPS(no_ring_is_not_params);
OPS(no_ring_is_no_region);
OPS(no_ring_is_no_variable);
OPS(no_ring_is_no_stack);
OPS(ok_global_params);
OPS(no_global_ring_as_params);
OPS(no_global_null);
OPS(no_global_params_as_memory);
OPS(ok_global_region);
OPS(no_global_region_small);
