/* SPDX-License-Identifier: MIT */
/*
 * For programs that drive an io_uring from inside io_uring_enter (Linux 7.1 and later): struct_ops
 * `io_uring_bpf_ops` with a callback `loop_step`. Nothing else is needed: no vmlinux.h, no libbpf.
 *
 *     RING_STEP(my_step)                      the program; it has `ring` and `params`
 *     { ...; return LOOP_CONTINUE; }
 *     RING_OPS(my_ops, my_step);              what is attached to a ring
 */
#ifndef IO_URING_LOOP_H
#define IO_URING_LOOP_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define INLINE static inline __attribute__((always_inline))

/* The ring: opaque from 7.2 on, and never looked into here. Kernels do not compare its name. */
struct iou_ctx {};

struct iou_loop_params {
	u32 cq_wait_idx; /* the step runs again when the CQ's tail gets here */
};

enum { LOOP_CONTINUE = 0, LOOP_STOP = 1 };
enum { REGION_MEM = 0, REGION_CQ = 1, REGION_SQ = 2 };

struct io_uring_bpf_ops {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	u32 ring_fd;
};

/* Submits up to `nr` entries: how many were consumed, or -errno. Sleepable programs only. */
extern int bpf_io_uring_submit_sqes(struct iou_ctx *ring, u32 nr) __ksym;
/* Memory of the ring, `size` bytes of it (a constant), or NULL. */
extern u8 *bpf_io_uring_get_region(struct iou_ctx *ring, u32 region, unsigned long size) __ksym;

struct sqe {
	u8 opcode;
	u8 flags;
	u16 ioprio;
	s32 fd;
	u64 off;
	u64 addr;
	u32 len;
	u32 op_flags;
	u64 user_data;
	u16 buf_index;
	u16 personality;
	u32 file_index;
	u64 addr3;
	u64 pad;
};

struct cqe {
	u64 user_data;
	s32 res;
	u32 flags;
};

/* Where things are in the CQ region, as current kernels report it when a ring is made. */
enum {
	SQ_HEAD_AT = 0,
	SQ_TAIL_AT = 4,
	CQ_HEAD_AT = 8,
	CQ_TAIL_AT = 12,
	CQES_AT = 64,
};

enum {
	OP_NOP = 0,
	OP_FSYNC = 3,
	OP_TIMEOUT = 11,
	OP_ACCEPT = 13,
	OP_ASYNC_CANCEL = 14,
	OP_OPENAT = 18,
	OP_CLOSE = 19,
	OP_READ = 22,
	OP_WRITE = 23,
	OP_SEND = 26,
	OP_RECV = 27,
	OP_SHUTDOWN = 34,
};

#define WORD(region, offset) (*(volatile u32 *)((region) + (offset)))

INLINE void sqe_clear(struct sqe *entry)
{
	u64 *words = (u64 *)entry;

	for (int i = 0; i < 8; i++)
		words[i] = 0;
}

/* An entry for `len` bytes at `addr`, from or to `off` of `fd`. */
INLINE void sqe_rw(struct sqe *entry, u8 opcode, s32 fd, u64 addr, u32 len, u64 off, u64 user_data)
{
	sqe_clear(entry);
	entry->opcode = opcode;
	entry->fd = fd;
	entry->off = off;
	entry->addr = addr;
	entry->len = len;
	entry->user_data = user_data;
}

/* The CQE with this index, in a region asked for with room for `entries` of them (a power of 2). */
INLINE struct cqe *cqe_at(u8 *cq, u32 index, u32 entries)
{
	return (struct cqe *)(cq + CQES_AT) + (index & (entries - 1));
}

/* The context of a struct_ops program is an array of its arguments. */
#define RING_STEP(name)                                                                     \
	INLINE int name##_body(struct iou_ctx *ring, struct iou_loop_params *params);       \
	SEC("struct_ops.s/" #name) int name(u64 *args)                                      \
	{                                                                                   \
		return name##_body((struct iou_ctx *)args[0], (struct iou_loop_params *)args[1]); \
	}                                                                                   \
	INLINE int name##_body(struct iou_ctx *ring, struct iou_loop_params *params)

/* The member is typed, the program takes the array: the cast is what BPF_PROG() hides, too. */
#define RING_OPS(name, step)                                  \
	SEC(".struct_ops.link") struct io_uring_bpf_ops name = { \
		.loop_step = (void *)step,                     \
	}

#define LICENSE(text) char license_text[] SEC("license") = text

#endif
