/* SPDX-License-Identifier: MIT */
/*
 * For programs of 2021 (iouring_bpf.h) that move to Linux 7.1 and later: what they knew of the ring,
 * on top of one SQ, one CQ and memory that the host registers. docs/porting.md.
 *
 *     2021                        here
 *     the CQs 0, 1, ...           queues of the program's own; queue 0 is read by the host
 *     submit(ctx, &sqe)           entry = next_sqe(&turn, queue, user_data), fill it in
 *     addr = user_data of another addr = named(queue, user_data)
 *     reap(ctx, cq, &cqe)         pop(queue, &cqe)
 *     emit(ctx, cq, ...)          push(queue, ...)
 *     return wait_for(ctx, ...)   return wait_for(&turn, queue, nr)
 *     return finish(ctx)          return finish(&turn, user_data)
 *     copies of user memory       fields of `struct shared`, which the host registers
 *
 * The upper 8 bits of user_data say which queue a completion is for: 56 are left to the program.
 */
#ifndef IO_URING_PORT_H
#define IO_URING_PORT_H

#include "io_uring_loop.h"

#ifndef PORT_QUEUES
#define PORT_QUEUES 2 /* a power of two */
#endif
#ifndef QUEUE_ENTRIES
#define QUEUE_ENTRIES 64 /* a power of two */
#endif

#define QUEUE_SHIFT 56
#define USER_DATA_BITS ((1ull << QUEUE_SHIFT) - 1)
#define NOTHING_THERE (-2) /* -ENOENT */

/* Set by the host before loading, from what io_uring_setup reported. */
const volatile u32 sq_entries = 8;
const volatile u32 cq_entries = 16;

/* What the host reads after io_uring_enter has returned: `queues[0]`, from head to tail. */
struct queue {
	u32 head;
	u32 tail;
	struct cqe entries[QUEUE_ENTRIES];
};
struct queue queues[PORT_QUEUES];
u32 lost; /* completions whose queue was full */
u32 left; /* SQEs that submitting did not take: no completion ever comes */

/* What the last run waits for. */
u32 wait_queue;
u32 wait_nr;

struct turn {
	struct iou_ctx *ring;
	struct iou_loop_params *params;
	u8 *sq;
	u8 *cq;
	u32 filled; /* SQEs, from the first one on */
};

INLINE u32 held(u32 index)
{
	struct queue *queue = &queues[index & (PORT_QUEUES - 1)];

	return queue->tail - queue->head;
}

/* 0, or -ENOMEM where the queue is full. */
INLINE int push(u32 index, u64 user_data, s32 res, u32 flags)
{
	struct queue *queue = &queues[index & (PORT_QUEUES - 1)];
	struct cqe *entry;

	if (queue->tail - queue->head >= QUEUE_ENTRIES) {
		lost++;
		return -12;
	}
	entry = &queue->entries[queue->tail & (QUEUE_ENTRIES - 1)];
	entry->user_data = user_data;
	entry->res = res;
	entry->flags = flags;
	queue->tail++;
	return 0;
}

/* 0, or -ENOENT and zeros where nothing is there. */
INLINE int pop(u32 index, struct cqe *out)
{
	struct queue *queue = &queues[index & (PORT_QUEUES - 1)];
	struct cqe *entry = &queue->entries[queue->head & (QUEUE_ENTRIES - 1)];
	const struct cqe nothing = {};

	if (queue->tail == queue->head) {
		*out = nothing;
		return NOTHING_THERE;
	}
	*out = *entry;
	queue->head++;
	return 0;
}

/* Completions of the ring go to the queues they are for. */
INLINE void collect(struct turn *turn)
{
	u32 head = WORD(turn->cq, CQ_HEAD_AT);
	u32 tail = WORD(turn->cq, CQ_TAIL_AT);

	for (int i = 0; i < QUEUE_ENTRIES && head != tail; i++, head++) {
		struct cqe *done = (struct cqe *)(turn->cq + CQES_AT) + (head & (cq_entries - 1));
		u64 user_data = done->user_data;

		push(user_data >> QUEUE_SHIFT, user_data & USER_DATA_BITS, done->res, done->flags);
	}
	WORD(turn->cq, CQ_HEAD_AT) = head;
}

/* Submits what was filled in. */
INLINE void flush(struct turn *turn)
{
	s32 taken;

	if (!turn->filled)
		return;
	taken = bpf_io_uring_submit_sqes(turn->ring, turn->filled);
	if (taken != (s32)turn->filled) /* an entry that is refused ends the batch */
		left += turn->filled - (taken < 0 ? 0 : taken);
	turn->filled = 0;
}

/* The user_data in the ring of a request whose completion is for this queue: what requests that
 * name it (TIMEOUT_REMOVE, POLL_REMOVE, ASYNC_CANCEL) have in `addr`. */
INLINE u64 named(u32 queue, u64 user_data)
{
	return (u64)queue << QUEUE_SHIFT | (user_data & USER_DATA_BITS);
}

/* A cleared entry, or NULL where the SQ is full: flush first. */
INLINE struct sqe *next_sqe(struct turn *turn, u32 queue, u64 user_data)
{
	u32 at = turn->filled;
	struct sqe *entry;

	if (at >= sq_entries)
		return 0;
	entry = (struct sqe *)turn->sq + at;
	sqe_clear(entry);
	entry->user_data = named(queue, user_data);
	turn->filled = at + 1;
	return entry;
}

/* The step runs again when the CQ's tail gets to `index`. Without the barrier clang may make one
   store of this and one to a map, which kernels refuse. */
INLINE void wait_until(struct iou_loop_params *params, u32 index)
{
	params->cq_wait_idx = index;
	asm volatile("" ::: "memory");
}

/* Run again once the queue holds `nr` completions. */
INLINE int wait_for(struct turn *turn, u32 queue, u32 nr)
{
	flush(turn);
	wait_queue = queue;
	wait_nr = nr;
	collect(turn);
	wait_until(turn->params, WORD(turn->cq, CQ_HEAD_AT) + (held(queue) < nr));
	return LOOP_CONTINUE;
}

/* The request is done: its completion, and io_uring_enter returns. */
INLINE int finish(struct turn *turn, u64 user_data)
{
	flush(turn);
	collect(turn);
	wait_nr = 0;
	push(0, user_data, 0, 0);
	return LOOP_STOP;
}

/* A run of the program; `shared` is memory of the type that the host registers. */
#define PORT_STEP(name, shared_type)                                                            \
	INLINE int name##_run(struct turn *turn, shared_type *shared);                          \
	RING_STEP(name)                                                                         \
	{                                                                                       \
		struct turn turn = { .ring = ring, .params = params };                          \
		shared_type *shared =                                                           \
			(shared_type *)bpf_io_uring_get_region(ring, REGION_MEM, sizeof(*shared)); \
                                                                                                \
		turn.sq = bpf_io_uring_get_region(ring, REGION_SQ,                              \
						  sq_entries * sizeof(struct sqe));             \
		turn.cq = bpf_io_uring_get_region(ring, REGION_CQ,                              \
						  CQES_AT + cq_entries * sizeof(struct cqe));   \
		if (!shared || !turn.sq || !turn.cq)                                            \
			return LOOP_STOP;                                                       \
		collect(&turn);                                                                 \
		if (held(wait_queue) < wait_nr) { /* woken by something else */                 \
			wait_until(params, WORD(turn.cq, CQ_HEAD_AT) + 1);                      \
			return LOOP_CONTINUE;                                                   \
		}                                                                               \
		return name##_run(&turn, shared);                                               \
	}                                                                                       \
	INLINE int name##_run(struct turn *turn, shared_type *shared)

#endif
