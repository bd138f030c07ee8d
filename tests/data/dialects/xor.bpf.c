// SPDX-License-Identifier: MIT
/* The function of a demonstration of February 2026: the XOR of a registered buffer's bytes. */
#include "dialect.h"

struct iou_loop_params {
	u32 cq_wait_idx;
};
struct io_uring_bpf_ops {
	int (*loop_step)(struct io_ring_ctx *ring, struct iou_loop_params *params);
	u32 ring_fd;
};
#define RING struct io_ring_ctx
#define STATE struct iou_loop_params
#define OPS(name) SEC(".struct_ops.link") struct io_uring_bpf_ops ops_##name = { .loop_step = (void *)name }

enum { MEM = 0, STOP = 1 };

extern u8 *bpf_io_uring_get_region(struct io_ring_ctx *ring, u32 id, u64 size) __ksym;
extern u8 bpf_io_uring_xor_regbuf(struct io_ring_ctx *ring, u32 index, u64 size) __ksym;

/* MEM says which buffer at 0, and how much of it at 4; the answer goes to 8. */
STEP(xor)
{
	u8 *own = bpf_io_uring_get_region(ring, MEM, 12);

	if (own)
		own[8] = bpf_io_uring_xor_regbuf(ring, WORD(own, 0), WORD(own, 4));
	return STOP;
}
OPS(xor);

/* What the function takes and gives beyond that: sizes of 64 bits, a byte. */
u64 size, answer;
u32 buffer;

STEP(any)
{
	answer = bpf_io_uring_xor_regbuf(ring, buffer, size);
	return STOP;
}
OPS(any);

/* A program that needs no such function. */
STEP(plain)
{
	return STOP;
}
OPS(plain);

/* Refused: the function may sleep. */
SEC("struct_ops/hurried") int hurried(u64 *args)
{
	return bpf_io_uring_xor_regbuf((struct io_ring_ctx *)args[0], 0, 1);
}
OPS(hurried);
