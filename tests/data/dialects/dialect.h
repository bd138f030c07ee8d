/* SPDX-License-Identifier: MIT */
/* What programs of the dialects share: abi/iouring-bpf-upstream, sections 7 to 9. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define INLINE static inline __attribute__((always_inline))

struct io_ring_ctx {};

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
	u64 rest[3];
};

struct io_uring_cqe {
	u64 user_data;
	s32 res;
	u32 flags;
};

#define WORD(region, offset) (*(volatile u32 *)((region) + (offset)))
enum { SQ_TAIL_AT = 4, CQ_HEAD_AT = 8, CQ_TAIL_AT = 12, CQES_AT = 64 };

char license_text[] SEC("license") = "Dual MIT/GPL";

/* A step of the dialect's own types RING and STATE; it has `ring` and `state`. */
#define STEP(name)                                                       \
	INLINE int name##_body(RING *ring, STATE *state);                \
	SEC("struct_ops.s/" #name) int name(u64 *args)                   \
	{                                                                \
		return name##_body((RING *)args[0], (STATE *)args[1]);   \
	}                                                                \
	INLINE int name##_body(RING *ring, STATE *state)
