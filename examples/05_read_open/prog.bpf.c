// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * read(open(path)): opens a file, reads it, closes it, one step per run. The v3 ABI opens straight
 * into registered file 0, so that no file descriptor ever exists; v2 uses the descriptor.
 * user_data is the address of a `struct request`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define STEPS_CQ 1
#define FILE_SLOT 0

struct request {
	u64 path;   /* address of the NUL-terminated path */
	u64 buffer; /* where the content goes */
	u32 size;   /* bytes there are in `buffer` */
	s32 got;    /* out: bytes read, or -errno */
};

/* The twin (twin.bpf.c) says that nothing ever fails. */
#ifndef FAILED
#define FAILED(res) ((res) < 0)
#endif

enum step { OPENING = 1, READING, CLOSING };

struct request wish; /* the host's, read when the first step starts */
u32 step;
s32 fd;

inline_always void on_file(struct io_uring_sqe *sqe)
{
	if (HAS_CQE_SKIP) {
		sqe->fd = FILE_SLOT;
		sqe->flags = SQE_FIXED_FILE;
	} else {
		sqe->fd = fd;
	}
}

RING_PROG(reader)
{
	struct request *user = (struct request *)ctx->user_data;
	struct io_uring_sqe sqe = { .cq_idx = STEPS_CQ };
	struct io_uring_cqe done = {};

	if (!step && copy_from_user(&wish, sizeof(wish), user))
		return finish(ctx);
	if (step && reap(ctx, STEPS_CQ, &done))
		return wait_for(ctx, STEPS_CQ, 1);

	switch (step) {
	case 0:
		sqe.opcode = OP_OPENAT;
		sqe.fd = AT_FDCWD;
		sqe.addr = wish.path;
		sqe.open_flags = 0; /* O_RDONLY */
		if (HAS_CQE_SKIP)
			sqe.file_index = FILE_SLOT + 1;
		step = OPENING;
		break;
	case OPENING:
		if (FAILED(done.res)) {
			copy_to_user(&user->got, &done.res, sizeof(done.res));
			step = 0;
			return finish(ctx);
		}
		fd = done.res;
		sqe.opcode = OP_READ;
		on_file(&sqe);
		sqe.addr = wish.buffer;
		sqe.len = wish.size;
		step = READING;
		break;
	case READING:
		copy_to_user(&user->got, &done.res, sizeof(done.res));
		sqe.opcode = OP_CLOSE;
		if (HAS_CQE_SKIP)
			sqe.file_index = FILE_SLOT + 1;
		else
			sqe.fd = fd;
		step = CLOSING;
		break;
	default:
		emit(ctx, 0, (u64)wish.path, done.res, 0);
		step = 0;
		return finish(ctx);
	}
	submit(ctx, &sqe);
	return wait_for(ctx, STEPS_CQ, 1);
}
