/* SPDX-License-Identifier: MIT */
/*
 * Structures and constants of the "BPF request" ABIs of 2021, for BPF programs.
 *
 * Layouts of SQE, CQE and context; docs/abi-2021.md says what programs do with them.
 * Compile with -DIOURING_CORE=1 to make every field access a CO-RE relocation.
 */
#ifndef IOURING_ABI_H
#define IOURING_ABI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#ifndef IOURING_CORE
#define IOURING_CORE 0
#endif

#if IOURING_CORE
#define RING_STRUCT __attribute__((preserve_access_index))
#else
#define RING_STRUCT
#endif

/*
 * A union of the names that a field has for different opcodes. With CO-RE it is the first of them
 * alone: initialising an unnamed union is an access that no relocation can name.
 */
#if IOURING_CORE
#define ALIASES(first, ...) first;
#else
#define ALIASES(first, ...) union { first; __VA_ARGS__ };
#endif

/* A request: 64 bytes. cq_idx chooses the queue that gets its completion. */
struct io_uring_sqe {
	u8 opcode;
	u8 flags;
	u16 ioprio;
	s32 fd;
	ALIASES(u64 off, u64 addr2;)
	u64 addr;
	u32 len;
	ALIASES(u32 rw_flags, u32 timeout_flags; u32 open_flags; u32 accept_flags; u32 msg_flags;)
	u64 user_data;
	u16 buf_index;
	u16 personality;
	ALIASES(u32 file_index, s32 splice_fd_in;)
	u16 cq_idx;
	u16 pad1;
	u32 pad2;
	u64 pad3;
} RING_STRUCT;

/* A completion: 16 bytes. */
struct io_uring_cqe {
	u64 user_data;
	s32 res;
	u32 flags;
} RING_STRUCT;

/* What r1 points to. Fields are accessed one at a time, each with its own size. */
struct io_uring_bpf_ctx {
	u64 user_data;
	u32 wait_nr;
	u32 wait_idx;
} RING_STRUCT;

/* The argument of a TIMEOUT request, in user memory. */
struct ring_timespec {
	s64 tv_sec;
	s64 tv_nsec;
};

_Static_assert(sizeof(struct io_uring_sqe) == 64, "SQE is 64 bytes");
_Static_assert(sizeof(struct io_uring_cqe) == 16, "CQE is 16 bytes");
_Static_assert(sizeof(struct io_uring_bpf_ctx) == 16, "context is 16 bytes");
_Static_assert(__builtin_offsetof(struct io_uring_sqe, user_data) == 32, "user_data at 32");
_Static_assert(__builtin_offsetof(struct io_uring_sqe, cq_idx) == 48, "cq_idx at 48");

enum ring_opcode {
	OP_NOP = 0,
	OP_READV = 1,
	OP_WRITEV = 2,
	OP_FSYNC = 3,
	OP_TIMEOUT = 11,
	OP_TIMEOUT_REMOVE = 12,
	OP_ACCEPT = 13,
	OP_ASYNC_CANCEL = 14,
	OP_CONNECT = 16,
	OP_OPENAT = 18,
	OP_CLOSE = 19,
	OP_READ = 22,
	OP_WRITE = 23,
	OP_SEND = 26,
	OP_RECV = 27,
	OP_SHUTDOWN = 34,
	OP_BPF = 37,
};

enum ring_sqe_flag {
	SQE_FIXED_FILE = 1 << 0,
	SQE_IO_DRAIN = 1 << 1,
	SQE_IO_LINK = 1 << 2,
	SQE_IO_HARDLINK = 1 << 3,
	SQE_ASYNC = 1 << 4,
	SQE_CQE_SKIP_SUCCESS = 1 << 6, /* v3base and v3 only */
};

enum ring_errno {
	ENOENT = 2,
	EIO = 5,
	EAGAIN = 11,
	ENOMEM = 12,
	EINVAL = 22,
	ENFILE = 23,
	EMFILE = 24,
	ETIME = 62,
	ECONNABORTED = 103,
	ECANCELED = 125,
};

#define AT_FDCWD (-100)
#define SHUT_WR 1

#endif
