// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * For each lint a program that it is about (bad_ID) and the smallest change that mends it
 * (good_ID), with _ for - in ids. twins.toml is the contract of all of them: user_data points to a
 * `struct job`, CQs 1 and 2 have 16 entries, and user space writes the map `mailbox`.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

struct job {
	u64 buffer; /* address of 4096 bytes */
	u64 other;  /* address of 64 bytes that programs only read */
	u32 size;
	u32 kind;
	u8 text[40];
};

ARRAY_OF(count, u64, 4, 0);
ARRAY_OF(mailbox, struct job, 1, 0);
ARRAY_OF(window, u64, 1, MAP_MMAPABLE);

#define JOB(ctx) ((struct job *)(ctx)->user_data)

inline_always void note(u32 index)
{
	u64 *cell = slot(&count, index);

	if (cell)
		*cell += 1;
}

/* --- user memory ---------------------------------------------------------------------------- */

RING_PROG(bad_user_range)
{
	u64 word = 0;

	copy_from_user(&word, sizeof(word), (char *)JOB(ctx) + sizeof(struct job) - 4);
	return finish(ctx);
}

RING_PROG(good_user_range)
{
	u64 word = 0;

	copy_from_user(&word, sizeof(word), (char *)JOB(ctx) + sizeof(struct job) - 8);
	return finish(ctx);
}

inline_always int text_at(struct io_uring_bpf_ctx *ctx, u32 most)
{
	u32 index = 0;
	u8 byte;

	copy_from_user(&index, sizeof(index), &JOB(ctx)->size);
	opaque(index);
	if (index > most)
		return finish(ctx);
	copy_from_user(&byte, 1, &JOB(ctx)->text[index]);
	return finish(ctx);
}

RING_PROG(bad_user_range_unproven)
{
	return text_at(ctx, 40);
}

RING_PROG(good_user_range_unproven)
{
	return text_at(ctx, 39);
}

RING_PROG(bad_double_fetch)
{
	struct job job;

	if (copy_from_user(&job.size, sizeof(job.size), &JOB(ctx)->size) || job.size > 40)
		return finish(ctx);
	if (copy_from_user(&job, sizeof(job), JOB(ctx)))
		return finish(ctx);
	emit(ctx, 1, job.size, 0, 0);
	return finish(ctx);
}

RING_PROG(good_double_fetch)
{
	struct job job;

	if (copy_from_user(&job, sizeof(job), JOB(ctx)) || job.size > 40)
		return finish(ctx);
	emit(ctx, 1, job.size, 0, 0);
	return finish(ctx);
}

RING_PROG(bad_double_fetch_of_a_map)
{
	struct job *mail = map_lookup(&mailbox, &(u32){ 0 });
	u32 size;

	if (!mail)
		return finish(ctx);
	size = *(volatile u32 *)&mail->size;
	if (size > 40)
		return finish(ctx);
	emit(ctx, 1, *(volatile u32 *)&mail->size, 0, 0);
	return finish(ctx);
}

RING_PROG(good_double_fetch_of_a_map)
{
	struct job *mail = map_lookup(&mailbox, &(u32){ 0 });
	u32 size;

	if (!mail)
		return finish(ctx);
	size = *(volatile u32 *)&mail->size;
	if (size > 40)
		return finish(ctx);
	emit(ctx, 1, size, 0, 0);
	return finish(ctx);
}

RING_PROG(bad_forged_user_pointer)
{
	struct io_uring_cqe cqe;
	u64 word = 0;

	if (reap(ctx, 1, &cqe))
		return finish(ctx);
	copy_from_user(&word, sizeof(word), (void *)cqe.user_data);
	return finish(ctx);
}

RING_PROG(good_forged_user_pointer)
{
	struct io_uring_cqe cqe;
	u64 word = 0;

	if (reap(ctx, 1, &cqe) || cqe.user_data > 4)
		return finish(ctx);
	copy_from_user(&word, sizeof(word), &JOB(ctx)->text[cqe.user_data * 8]);
	return finish(ctx);
}

/* --- pointers that get out -------------------------------------------------------------------- */

RING_PROG(bad_pointer_exposed)
{
	u64 *cell = slot(&count, 0);

	if (cell)
		emit(ctx, 1, (u64)cell, 0, 0);
	return finish(ctx);
}

RING_PROG(good_pointer_exposed)
{
	u64 *cell = slot(&count, 0);

	if (cell)
		emit(ctx, 1, *cell, 0, 0);
	return finish(ctx);
}

RING_PROG(bad_pointer_exposed_in_an_sqe)
{
	u64 *cell = slot(&count, 0);
	struct io_uring_sqe sqe = { .opcode = OP_READ, .len = 8, .cq_idx = 1 };

	if (!cell)
		return finish(ctx);
	sqe.addr = (u64)cell;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_pointer_exposed_in_an_sqe)
{
	u64 *cell = slot(&count, 0);
	struct io_uring_sqe sqe = { .opcode = OP_READ, .len = 8, .cq_idx = 1 };

	if (!cell)
		return finish(ctx);
	sqe.addr = (u64)JOB(ctx)->text;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_pointer_exposed_by_a_copy)
{
	u64 *cell = slot(&count, 0);

	if (cell)
		copy_to_user(JOB(ctx)->text, &cell, sizeof(cell));
	return finish(ctx);
}

RING_PROG(good_pointer_exposed_by_a_copy)
{
	u64 *cell = slot(&count, 0);

	if (cell)
		copy_to_user(JOB(ctx)->text, cell, sizeof(*cell));
	return finish(ctx);
}

RING_PROG(bad_pointer_exposed_in_a_map)
{
	u64 *cell = slot(&count, 0);
	u64 *shown = slot(&window, 0);

	if (cell && shown)
		*shown = (u64)cell;
	return finish(ctx);
}

RING_PROG(good_pointer_exposed_in_a_map)
{
	u64 *cell = slot(&count, 0);
	u64 *shown = slot(&window, 0);

	if (cell && shown)
		*shown = *cell;
	return finish(ctx);
}

/* --- completions ------------------------------------------------------------------------------ */

RING_PROG(bad_failed_reap_used)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	emit(ctx, 2, cqe.user_data, cqe.res, 0);
	return finish(ctx);
}

RING_PROG(good_failed_reap_used)
{
	struct io_uring_cqe cqe;

	if (!reap(ctx, 1, &cqe))
		emit(ctx, 2, cqe.user_data, cqe.res, 0);
	return finish(ctx);
}

RING_PROG(bad_failed_reap_used_by_a_copy)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	copy_to_user(JOB(ctx)->text, &cqe, sizeof(cqe));
	return finish(ctx);
}

RING_PROG(good_failed_reap_used_by_a_copy)
{
	struct io_uring_cqe cqe;

	if (!reap(ctx, 1, &cqe))
		copy_to_user(JOB(ctx)->text, &cqe, sizeof(cqe));
	return finish(ctx);
}

inline_always int pass_on(struct io_uring_bpf_ctx *ctx, s32 least)
{
	struct io_uring_sqe sqe = { .opcode = OP_WRITE, .addr = (u64)JOB(ctx)->text, .cq_idx = 1 };
	struct io_uring_cqe cqe;

	if (reap(ctx, 1, &cqe) || cqe.res < least || cqe.res > 40)
		return finish(ctx);
	sqe.len = cqe.res;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_errno_as_count)
{
	return pass_on(ctx, -200);
}

RING_PROG(good_errno_as_count)
{
	return pass_on(ctx, 0);
}

inline_always int goes_on(struct io_uring_bpf_ctx *ctx, s32 least)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_WRITE, .addr = (u64)JOB(ctx)->text, .len = 40, .cq_idx = 1,
	};
	struct io_uring_cqe cqe;
	u64 *done = slot(&count, 0);

	if (!done || reap(ctx, 1, &cqe) || cqe.res < least)
		return finish(ctx);
	*done += (u32)cqe.res;
	sqe.off = *done;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_errno_as_count_sum)
{
	return goes_on(ctx, -200);
}

RING_PROG(good_errno_as_count_sum)
{
	return goes_on(ctx, 0);
}

inline_always int writes(struct io_uring_bpf_ctx *ctx, int looks)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_WRITE, .addr = (u64)JOB(ctx)->text, .len = 40, .cq_idx = 1,
	};
	struct io_uring_cqe cqe;

	if (reap(ctx, 1, &cqe)) {
		submit(ctx, &sqe);
		return wait_for(ctx, 1, 1);
	}
	if (looks && cqe.res != 40)
		emit(ctx, 2, 0, cqe.res, 0);
	return finish(ctx);
}

RING_PROG(bad_completion_result_ignored)
{
	return writes(ctx, 0);
}

RING_PROG(good_completion_result_ignored)
{
	return writes(ctx, 1);
}

RING_PROG(bad_user_data_shared)
{
	emit(ctx, 0, ctx->user_data, 1, 0);
	return finish(ctx);
}

RING_PROG(good_user_data_shared)
{
	emit(ctx, 0, 77, 1, 0);
	return finish(ctx);
}

RING_PROG(bad_user_data_shared_by_an_sqe)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .user_data = ctx->user_data };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_user_data_shared_by_an_sqe)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .user_data = ctx->user_data, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

/* --- queues and waiting ------------------------------------------------------------------------ */

RING_PROG(bad_cq_index)
{
	emit(ctx, 3, 1, 1, 0);
	return finish(ctx);
}

RING_PROG(good_cq_index)
{
	emit(ctx, 2, 1, 1, 0);
	return finish(ctx);
}

RING_PROG(bad_cq_index_of_an_sqe)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .cq_idx = 3 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_cq_index_of_an_sqe)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .cq_idx = 2 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_cq_index_to_wait_on)
{
	note(0);
	return wait_for(ctx, 3, 1);
}

RING_PROG(good_cq_index_to_wait_on)
{
	note(0);
	return wait_for(ctx, 2, 1);
}

RING_PROG(bad_cq_ownership)
{
	struct io_uring_cqe cqe;

	reap(ctx, 0, &cqe);
	return finish(ctx);
}

RING_PROG(good_cq_ownership)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	return finish(ctx);
}

RING_PROG(bad_wait_never_satisfied)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	return wait_for(ctx, 1, 17);
}

RING_PROG(good_wait_never_satisfied)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	return wait_for(ctx, 1, 16);
}

RING_PROG(bad_wait_without_progress)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .cq_idx = 1 };

	submit(ctx, &sqe);
	return wait_for(ctx, 1, 1);
}

RING_PROG(good_wait_without_progress)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .cq_idx = 1 };
	struct io_uring_cqe cqe;

	if (!reap(ctx, 1, &cqe))
		return finish(ctx);
	submit(ctx, &sqe);
	return wait_for(ctx, 1, 1);
}

#if IOURING_PROFILE == 3
RING_PROG(bad_wait_fields_stale)
{
	struct io_uring_cqe cqe;

	if (reap(ctx, 1, &cqe))
		return wait_for(ctx, 1, 1);
	ctx_set(ctx, wait_nr, 1);
	return RETURN_WAIT;
}

RING_PROG(good_wait_fields_stale)
{
	struct io_uring_cqe cqe;

	if (reap(ctx, 1, &cqe))
		return wait_for(ctx, 1, 1);
	return wait_for(ctx, 1, 1);
}
#endif

/* --- SQEs ---------------------------------------------------------------------------------------- */

RING_PROG(bad_link_without_successor)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_link_without_successor)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };
	struct io_uring_sqe next = { .opcode = OP_NOP, .cq_idx = 1 };

	submit(ctx, &sqe);
	submit(ctx, &next);
	return finish(ctx);
}

RING_PROG(bad_drain_from_program)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_DRAIN, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_drain_from_program)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_ASYNC, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_sqe_opcode)
{
	struct io_uring_sqe sqe = { .opcode = 38, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_sqe_opcode)
{
	struct io_uring_sqe sqe = { .opcode = OP_BPF, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_sqe_flags)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = 1 << 7, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_sqe_flags)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_ASYNC, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_sqe_field)
{
	struct io_uring_sqe sqe = { .opcode = OP_BPF, .len = 1, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_sqe_field)
{
	struct io_uring_sqe sqe = { .opcode = OP_BPF, .len = 0, .cq_idx = 1 };

	submit(ctx, &sqe);
	return finish(ctx);
}

inline_always int reads(struct io_uring_bpf_ctx *ctx, u32 into, u32 size)
{
	struct io_uring_sqe sqe = { .opcode = OP_READ, .len = size, .cq_idx = 1 };

	sqe.addr = ctx->user_data + into;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_sqe_buffer)
{
	return reads(ctx, 24, 41);
}

RING_PROG(good_sqe_buffer)
{
	return reads(ctx, 24, 40);
}

inline_always int reads_other(struct io_uring_bpf_ctx *ctx, u32 opcode)
{
	struct io_uring_sqe sqe = { .opcode = opcode, .len = 64, .cq_idx = 1 };
	struct job job;

	if (copy_from_user(&job, sizeof(job), JOB(ctx)))
		return finish(ctx);
	sqe.addr = job.other;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_sqe_buffer_direction)
{
	return reads_other(ctx, OP_READ);
}

RING_PROG(good_sqe_buffer_direction)
{
	return reads_other(ctx, OP_WRITE);
}

RING_PROG(bad_file_offset_32_bit)
{
	struct io_uring_sqe sqe = { .opcode = OP_WRITE, .len = 40, .cq_idx = 1 };
	struct job job;

	if (copy_from_user(&job, sizeof(job), JOB(ctx)))
		return finish(ctx);
	sqe.addr = (u64)JOB(ctx)->text;
	sqe.off = job.size * job.kind;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_file_offset_32_bit)
{
	struct io_uring_sqe sqe = { .opcode = OP_WRITE, .len = 40, .cq_idx = 1 };
	struct job job;

	if (copy_from_user(&job, sizeof(job), JOB(ctx)))
		return finish(ctx);
	sqe.addr = (u64)JOB(ctx)->text;
	sqe.off = (u64)job.size * job.kind;
	submit(ctx, &sqe);
	return finish(ctx);
}

inline_always int two_reads(struct io_uring_bpf_ctx *ctx, u32 apart)
{
	struct io_uring_sqe sqe = { .opcode = OP_READ, .len = 20, .cq_idx = 1 };

	sqe.addr = (u64)JOB(ctx)->text;
	submit(ctx, &sqe);
	sqe.addr = (u64)(JOB(ctx)->text + apart);
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(bad_buffer_in_flight)
{
	return two_reads(ctx, 19);
}

RING_PROG(good_buffer_in_flight)
{
	return two_reads(ctx, 20);
}

RING_PROG(bad_buffer_in_flight_of_a_copy)
{
	struct io_uring_sqe sqe = { .opcode = OP_WRITE, .len = 40, .cq_idx = 1 };
	u32 zero = 0;

	sqe.addr = (u64)JOB(ctx)->text;
	submit(ctx, &sqe);
	copy_to_user(&JOB(ctx)->text[36], &zero, sizeof(zero));
	return finish(ctx);
}

RING_PROG(good_buffer_in_flight_of_a_copy)
{
	struct io_uring_sqe sqe = { .opcode = OP_WRITE, .len = 40, .cq_idx = 1 };
	u32 zero = 0;

	sqe.addr = (u64)JOB(ctx)->text;
	copy_to_user(&JOB(ctx)->text[36], &zero, sizeof(zero));
	submit(ctx, &sqe);
	return finish(ctx);
}

/* --- functions that are judged alone -------------------------------------------------------- */

/* Their ends are no ends of runs, and whoever calls one does not know what it did with what it got. */
#define FUNCTION __attribute__((noinline)) int

FUNCTION submit_nop(struct io_uring_bpf_ctx *ctx, u32 flags)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = flags & SQE_IO_LINK, .cq_idx = 1 };

	submit(ctx, &sqe);
	return 1;
}

FUNCTION open_chain(struct io_uring_bpf_ctx *ctx)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	submit(ctx, &sqe);
	return 1;
}

FUNCTION count_one(u32 index)
{
	note(index & 3);
	return 1;
}

RING_PROG(bad_link_without_successor_in_a_function)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	submit(ctx, &sqe);
	count_one(2);
	return finish(ctx);
}

RING_PROG(good_link_without_successor_in_a_function)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	submit(ctx, &sqe);
	submit_nop(ctx, 0);
	return finish(ctx);
}

RING_PROG(bad_link_without_successor_behind_a_function)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .flags = SQE_IO_LINK, .cq_idx = 1 };

	open_chain(ctx);
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_link_without_successor_behind_a_function)
{
	struct io_uring_sqe sqe = { .opcode = OP_NOP, .cq_idx = 1 };

	open_chain(ctx);
	submit(ctx, &sqe);
	return finish(ctx);
}

FUNCTION make_nop(struct io_uring_sqe *sqe)
{
	if (!sqe)
		return 0;
	sqe->opcode = OP_NOP;
	sqe->flags = 0;
	sqe->cq_idx = 1;
	return 1;
}

RING_PROG(bad_sqe_opcode_in_a_function)
{
	struct io_uring_sqe sqe = { .flags = 0, .cq_idx = 1 };

	make_nop(&sqe);
	sqe.opcode = 77;
	submit(ctx, &sqe);
	return finish(ctx);
}

RING_PROG(good_sqe_opcode_in_a_function)
{
	struct io_uring_sqe sqe = { .opcode = 77, .flags = 0, .cq_idx = 1 };

	make_nop(&sqe);
	submit(ctx, &sqe);
	return finish(ctx);
}

FUNCTION is_whole(struct io_uring_cqe *cqe)
{
	return cqe && cqe->res == 40;
}

inline_always int passes(struct io_uring_bpf_ctx *ctx, int looks)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_WRITE, .addr = (u64)JOB(ctx)->text, .len = 40, .cq_idx = 1,
	};
	struct io_uring_cqe cqe;

	if (reap(ctx, 1, &cqe)) {
		submit(ctx, &sqe);
		return wait_for(ctx, 1, 1);
	}
	if (looks ? !is_whole(&cqe) : count_one(2))
		emit(ctx, 2, 0, 0, 0);
	return finish(ctx);
}

RING_PROG(bad_completion_result_ignored_by_a_function)
{
	return passes(ctx, 0);
}

RING_PROG(good_completion_result_ignored_by_a_function)
{
	return passes(ctx, 1);
}

#if IOURING_PROFILE == 3
FUNCTION wait_for_one(struct io_uring_bpf_ctx *ctx)
{
	ctx_set(ctx, wait_nr, 1);
	ctx_set(ctx, wait_idx, 1);
	return 1;
}

RING_PROG(bad_wait_fields_stale_in_a_function)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	count_one(1);
	return RETURN_WAIT;
}

RING_PROG(good_wait_fields_stale_in_a_function)
{
	struct io_uring_cqe cqe;

	reap(ctx, 1, &cqe);
	wait_for_one(ctx);
	return RETURN_WAIT;
}
#endif
