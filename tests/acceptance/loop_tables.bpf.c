// SPDX-License-Identifier: MIT
/* The programs of abi/iouring-bpf-upstream, 5.1 to 5.5, as its tables describe them. */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

const volatile u32 sq_entries = 8;
const volatile u32 cq_entries = 8;
const volatile u32 tag = 0xabba1741;

u32 steps;
u32 reqs_to_run;
u32 reqs_in_flight;
u32 waits;   /* steps that asked to wait for what was not there yet */
u32 short_submits;

#define SQ_BYTES (sq_entries * sizeof(struct sqe))
#define CQ_BYTES (CQES_AT + cq_entries * sizeof(struct cqe))
#define REGION(id, size) bpf_io_uring_get_region(ring, id, size)
#define SLOT(cq, index) ((struct cqe *)((cq) + CQES_AT) + ((index) & (cq_entries - 1)))

/* Submits `count` NOPs from the first slots; whether all were taken. */
INLINE int put_nops(struct iou_ctx *ring, u8 *sq, u32 count)
{
	for (u32 i = 0; i < count && i < sq_entries; i++) {
		struct sqe *entry = (struct sqe *)sq + i;

		sqe_clear(entry);
		entry->opcode = OP_NOP;
		entry->user_data = tag;
	}
	return bpf_io_uring_submit_sqes(ring, count) == (int)count;
}

/* How many CQEs there are, from `head` on, that are all ours; -1 if one is foreign. */
INLINE int own_cqes(u8 *cq, u32 head)
{
	u32 ready = WORD(cq, CQ_TAIL_AT) - head;

	if (ready > sq_entries)
		ready = sq_entries;
	for (u32 i = 0; i < ready && i < sq_entries; i++)
		if (SLOT(cq, head + i)->user_data != tag)
			return -1;
	return ready;
}

/* 5.1: keep `sq_entries` NOPs in flight until `reqs_to_run` are done. */
RING_STEP(nops)
{
	u8 *sq = REGION(REGION_SQ, SQ_BYTES), *cq = REGION(REGION_CQ, CQ_BYTES);
	u32 head, room;
	int taken;

	if (!sq || !cq)
		return LOOP_STOP;
	steps++;
	if (reqs_in_flight > sq_entries || reqs_to_run < reqs_in_flight)
		return LOOP_STOP;
	room = sq_entries - reqs_in_flight;
	if (room > reqs_to_run - reqs_in_flight)
		room = reqs_to_run - reqs_in_flight;
	if (room) {
		if (!put_nops(ring, sq, room)) {
			short_submits++;
			return LOOP_STOP;
		}
		reqs_in_flight += room;
	}
	head = WORD(cq, CQ_HEAD_AT);
	taken = own_cqes(cq, head);
	if (taken < 0)
		return LOOP_STOP;
	head += taken;
	WORD(cq, CQ_HEAD_AT) = head;
	reqs_in_flight -= taken;
	reqs_to_run -= taken;
	if (!reqs_to_run && !reqs_in_flight)
		return LOOP_STOP;
	params->cq_wait_idx = head + reqs_in_flight;
	if ((s32)(params->cq_wait_idx - WORD(cq, CQ_TAIL_AT)) > 0)
		waits++;
	return LOOP_CONTINUE;
}
RING_OPS(ops_nops, nops);

/* --- 5.2: a file copied at queue depth one --- */

s32 input_fd, output_fd;
u64 buffer_uptr;
u64 buffer_size;
u32 nr_in_flight;
u32 cur_offset;
s32 cp_result;
u32 reads, writes;
u32 foreign_tag; /* the host's: what a request is marked with instead of its own */

enum { MARK_READ = 1, MARK_WRITE = 2, ERANGE = 34, EINVAL = 22 };

__attribute__((noinline)) static int issue(struct iou_ctx *ring, struct sqe *entry, u32 opcode, u32 len)
{
	entry->opcode = opcode;
	entry->fd = opcode == OP_READ ? input_fd : output_fd;
	entry->off = cur_offset;
	entry->addr = buffer_uptr;
	entry->len = len;
	entry->user_data = foreign_tag ?: opcode == OP_READ ? MARK_READ : MARK_WRITE;
	if (opcode == OP_READ)
		reads++;
	else
		writes++;
	return bpf_io_uring_submit_sqes(ring, 1);
}

RING_STEP(cp)
{
	struct sqe *sq = (struct sqe *)REGION(REGION_SQ, SQ_BYTES);
	u8 *cq = REGION(REGION_CQ, CQ_BYTES);
	u32 head, ready;
	int taken = 1;

	if (!sq || !cq)
		return LOOP_STOP;
	steps++;
	sqe_clear(sq);
	head = WORD(cq, CQ_HEAD_AT);
	if (!nr_in_flight) {
		nr_in_flight = 1;
		taken = issue(ring, sq, OP_READ, buffer_size);
		params->cq_wait_idx = head + 1;
		return taken == 1 ? LOOP_CONTINUE : LOOP_STOP;
	}
	ready = WORD(cq, CQ_TAIL_AT) - head;
	if (ready > 1) {
		cp_result = -ERANGE;
		return LOOP_STOP;
	}
	if (ready) {
		struct cqe *done = SLOT(cq, head);
		s32 res = done->res;

		if (res < 0) {
			cp_result = res;
			return LOOP_STOP;
		}
		if (done->user_data == MARK_READ && !res) {
			cp_result = 0;
			return LOOP_STOP;
		}
		if (done->user_data == MARK_READ) {
			taken = issue(ring, sq, OP_WRITE, res);
		} else if (done->user_data == MARK_WRITE) {
			cur_offset += res;
			taken = issue(ring, sq, OP_READ, buffer_size);
		} else {
			cp_result = -EINVAL;
			return LOOP_STOP;
		}
		if (taken != 1)
			return LOOP_STOP;
		WORD(cq, CQ_HEAD_AT) = ++head;
	}
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}
RING_OPS(ops_cp, cp);

/* --- 5.3: state in memory that the host registered --- */

struct counted {
	u32 stat_nr_cqes;
	u32 stat_nr_sqes;
	s32 result;
	u32 in_flight;
	u32 left;
};

RING_STEP(mem_nops)
{
	volatile struct counted *own = (struct counted *)REGION(REGION_MEM, sizeof(*own));
	u8 *sq = REGION(REGION_SQ, SQ_BYTES), *cq = REGION(REGION_CQ, CQ_BYTES);
	u32 head, room, left;
	int taken;

	if (!own || !sq || !cq)
		return LOOP_STOP;
	steps++;
	left = own->left;
	room = own->in_flight;
	room = room < sq_entries ? sq_entries - room : 0;
	if (room > left)
		room = left;
	if (room) {
		if (!put_nops(ring, sq, room)) {
			own->result = -2;
			return LOOP_STOP;
		}
		own->stat_nr_sqes += room;
		own->in_flight += room;
		own->left = left - room;
	}
	head = WORD(cq, CQ_HEAD_AT);
	taken = own_cqes(cq, head);
	if (taken < 0) {
		own->result = -3;
		return LOOP_STOP;
	}
	WORD(cq, CQ_HEAD_AT) = head + taken;
	own->stat_nr_cqes += taken;
	own->in_flight -= taken;
	if (!own->left && !own->in_flight) {
		own->result = 0;
		return LOOP_STOP;
	}
	params->cq_wait_idx = head + taken + own->in_flight;
	return LOOP_CONTINUE;
}
RING_OPS(ops_mem_nops, mem_nops);

/* --- 5.4, `cp`: as above, with its state in memory that the host registered --- */

struct copy {
	s32 input_fd;
	s32 output_fd;
	u64 buffer;
	u32 nr;
	u32 offset;
	u64 buffer_size;
	s32 res;
};

RING_STEP(mem_cp)
{
	volatile struct copy *own = (struct copy *)REGION(REGION_MEM, sizeof(*own));
	struct sqe *sq = (struct sqe *)REGION(REGION_SQ, SQ_BYTES);
	u8 *cq = REGION(REGION_CQ, CQ_BYTES);
	u32 head, opcode = OP_READ, len;

	if (!own || !sq || !cq)
		return LOOP_STOP;
	head = WORD(cq, CQ_HEAD_AT);
	len = own->buffer_size;
	if (own->nr) {
		struct cqe *done = SLOT(cq, head);
		u64 mark = done->user_data;
		s32 res = done->res;

		if (WORD(cq, CQ_TAIL_AT) == head) {
			params->cq_wait_idx = head + 1;
			return LOOP_CONTINUE;
		}
		if (res < 0 || (mark == MARK_READ && !res)) {
			own->res = res;
			return LOOP_STOP;
		}
		WORD(cq, CQ_HEAD_AT) = ++head;
		if (mark == MARK_READ) {
			opcode = OP_WRITE;
			len = res;
		} else {
			own->offset += res;
		}
	}
	own->nr = 1;
	sqe_clear(sq);
	sq->opcode = opcode;
	sq->fd = opcode == OP_READ ? own->input_fd : own->output_fd;
	sq->off = own->offset;
	sq->addr = own->buffer;
	sq->len = len;
	sq->user_data = opcode == OP_READ ? MARK_READ : MARK_WRITE;
	if (bpf_io_uring_submit_sqes(ring, 1) != 1)
		return LOOP_STOP;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}
RING_OPS(ops_mem_cp, mem_cp);

RING_STEP(counts)
{
	u8 *own = REGION(REGION_MEM, 4);

	if (own)
		WORD(own, 0)++;
	return LOOP_STOP;
}
RING_OPS(ops_counts, counts);

/* --- 5.5: results in a map, through the SQ's tail --- */

struct {
	int (*type)[2]; /* an array */
	int (*max_entries)[3];
	u32 *key;
	s64 *value;
} results SEC(".maps");

static void *(*const map_lookup_elem)(void *map, const void *key) = (void *)1;

INLINE int ended(s64 result)
{
	u32 zero = 0;
	s64 *slot = map_lookup_elem(&results, &zero);

	if (slot)
		*slot = result;
	return LOOP_STOP;
}

RING_STEP(array_nops)
{
	u8 *sq = REGION(REGION_SQ, SQ_BYTES), *cq = REGION(REGION_CQ, CQ_BYTES);
	u32 head, tail, room;
	int taken;

	if (!sq || !cq)
		return ended(-1);
	steps++;
	head = WORD(cq, CQ_HEAD_AT);
	taken = own_cqes(cq, head);
	if (taken < 0)
		return ended(-3);
	head += taken;
	WORD(cq, CQ_HEAD_AT) = head;
	room = reqs_to_run < sq_entries ? reqs_to_run : sq_entries;
	if (!room)
		return ended(1);
	tail = WORD(cq, SQ_TAIL_AT);
	for (u32 i = 0; i < room && i < sq_entries; i++, tail++) {
		struct sqe *entry = (struct sqe *)sq + (tail & (sq_entries - 1));

		sqe_clear(entry);
		entry->user_data = tag;
	}
	WORD(cq, SQ_TAIL_AT) = tail;
	if (bpf_io_uring_submit_sqes(ring, room) != (int)room)
		return ended(-2);
	reqs_to_run -= room;
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}
RING_OPS(ops_array_nops, array_nops);
