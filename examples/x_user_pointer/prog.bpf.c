// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A queue in user memory, as io_uring's own: the host puts lines into slots and moves the tail,
 * `drain` writes them to a file and moves the head. What user_data points to is declared by a
 * contract and pinned with the request, so heads, tails and lengths are plain loads and stores.
 */
#include "iouring_x.h"

LICENSE("Dual MIT/GPL");

#define WRITES_CQ 1
#define SLOTS 8 /* a power of two */
#define TEXT 56

struct slot {
	u32 len;
	u32 pad;
	u8 text[TEXT];
};

struct queue {
	u32 tail; /* the host's */
	u32 head; /* the program's; heads and tails never wrap to fewer bits */
	s32 fd;
	s32 error;   /* of the first line that was not written whole */
	u32 writing; /* bytes of the line in flight */
	u32 pad;
	struct slot slots[SLOTS];
};

/* What the host may change at any moment is loaded once, where it stands. */
#define once(word) (*(volatile u32 *)&(word))

/* The length of a line, at most what a slot holds. A function of its own, so that the object says
 * what a queue is. */
static __attribute__((noinline)) u32 length(struct queue *queue, u32 index)
{
	u32 len = once(queue->slots[index % SLOTS].len);

	return len > TEXT ? TEXT : len;
}

RING_PROG(drain)
{
	struct queue *queue = more_of(ctx)->user;
	struct io_uring_sqe write = { .opcode = OP_WRITE, .off = -1, .cq_idx = WRITES_CQ };
	struct io_uring_cqe done;
	u32 head = once(queue->head), tail = once(queue->tail);
	u32 len;

	if (!reap(ctx, WRITES_CQ, &done)) {
		queue->head = ++head;
		if (done.res < 0 || (u32)done.res != queue->writing) {
			queue->error = done.res < 0 ? done.res : -EIO;
			return finish(ctx);
		}
	}
	if (tail - head > SLOTS) {
		queue->error = -EINVAL; /* more lines than slots */
		return finish(ctx);
	}
#ifdef TWIN
	tail = once(queue->tail);
#endif
	if (head == tail)
		return finish(ctx);
	len = length(queue, head);
	queue->writing = len;
	write.fd = queue->fd;
	write.len = len;
	write.addr = ctx->user_data + __builtin_offsetof(struct queue, slots[0].text) +
		     (u64)(head % SLOTS) * sizeof(struct slot);
	submit(ctx, &write);
	return wait_for(ctx, WRITES_CQ, 1);
}
