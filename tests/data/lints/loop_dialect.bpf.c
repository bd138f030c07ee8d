// SPDX-License-Identifier: MIT
/*
 * Twins of the lints of rings with a loop in the dialects, one object for each (-DDIALECT): names as in
 * loop.bpf.c. ok_ is what the merged ABI's lints would warn of, and these do not.
 */
#include "../dialects/dialect.h"

#if DIALECT == 2606
struct iou_ctx {};
struct iou_loop_params {
	u32 cq_wait_idx;
	u32 flags;
	u64 timeout_ns;
};
#define RING struct iou_ctx
#define STATE struct iou_loop_params
#define INDEX state->cq_wait_idx
struct io_uring_bpf_ops {
	int (*loop_step)(RING *ring, STATE *state);
	u32 ring_fd;
};
#define OPS(name) SEC(".struct_ops.link") struct io_uring_bpf_ops ops_##name = { .loop_step = (void *)name }
enum { MEM = 0, RINGS = 1, SQ = 2 };
#else
#define RING struct io_ring_ctx
#define STATE struct iou_loop_state
#if DIALECT == 2511
struct iou_loop_state {
	u32 cq_tail;
	s64 timeout;
};
#define INDEX state->cq_tail
#define CALLBACK loop
#else
struct iou_loop_state {
	u32 target_cq_tail;
	s64 timeout;
};
#define INDEX state->target_cq_tail
#define CALLBACK handle_events
#endif
struct io_uring_ops {
	int (*CALLBACK)(RING *ring, STATE *state);
	u32 ring_fd;
};
#define OPS(name) SEC(".struct_ops") struct io_uring_ops ops_##name = { .CALLBACK = (void *)name }
enum { RINGS = 0, SQ = 1, MEM = 2 };
#endif

extern int bpf_io_uring_submit_sqes(RING *ring, u32 nr) __ksym;

enum { GO_ON = 0, STOP = 1, SQES = 8, CQES = 16 };
#define TWIN(name)           \
	int name(u64 *args); \
	OPS(name);           \
	STEP(name)

/* --- in every dialect -------------------------------------------------------------------------- */

u32 results;

TWIN(bad_wait_never_satisfied) { INDEX = 5; return GO_ON; }

TWIN(bad_submit_count) { results += bpf_io_uring_submit_sqes(ring, 0); return STOP; }
TWIN(good_submit_count) { results += bpf_io_uring_submit_sqes(ring, 1); return STOP; }

TWIN(bad_submit_result_ignored) { bpf_io_uring_submit_sqes(ring, 1); return STOP; }
TWIN(good_submit_result_ignored) { return bpf_io_uring_submit_sqes(ring, 1) == 1 ? GO_ON : STOP; }

#if DIALECT == 2506
/* --- without regions --------------------------------------------------------------------------- */

extern struct io_uring_cqe *bpf_io_uring_extract_next_cqe(RING *ring) __ksym;

u32 taken;

TWIN(good_wait_never_satisfied)
{
	taken += bpf_io_uring_extract_next_cqe(ring) != 0;
	INDEX = *(volatile u32 *)&taken + 1;
	return GO_ON;
}
#else
/* --- with regions ------------------------------------------------------------------------------- */

extern u8 *bpf_io_uring_get_region(RING *ring, u32 region, unsigned long size) __ksym;

#define REGIONS                                                                                   \
	u8 *sq = bpf_io_uring_get_region(ring, SQ, SQES * sizeof(struct sqe));                   \
	u8 *rings = bpf_io_uring_get_region(ring, RINGS, CQES_AT + CQES * sizeof(struct io_uring_cqe)); \
	if (!sq || !rings)                                                                        \
		return STOP

TWIN(good_wait_never_satisfied) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT) + 1; return GO_ON; }
TWIN(bad_wait_never_satisfied_far_ahead) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT) + 17; return GO_ON; }
TWIN(good_wait_never_satisfied_far_ahead) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT) + 16; return GO_ON; }

TWIN(bad_ring_region) { results += bpf_io_uring_get_region(ring, 3, 64) != 0; return STOP; }
TWIN(good_ring_region) { results += bpf_io_uring_get_region(ring, RINGS, 64) != 0; return STOP; }

TWIN(bad_ring_word_ownership) { REGIONS; WORD(rings, CQ_TAIL_AT)++; return STOP; }
TWIN(good_ring_word_ownership) { REGIONS; WORD(rings, SQ_TAIL_AT)++; return STOP; }

TWIN(bad_cq_head_stale) { REGIONS; WORD(rings, CQ_HEAD_AT) = 3; return STOP; }
TWIN(good_cq_head_stale) { REGIONS; WORD(rings, CQ_HEAD_AT) += 3; return STOP; }

#define LOOKS(name, mask)                                                                          \
	TWIN(name)                                                                                 \
	{                                                                                          \
		REGIONS;                                                                           \
		results += ((volatile struct io_uring_cqe *)(rings + CQES_AT))[WORD(rings, CQ_HEAD_AT) & (mask)].res; \
		return STOP;                                                                       \
	}
LOOKS(bad_cq_mask, 7)
LOOKS(good_cq_mask, 15)

#if DIALECT == 2606
/* The loop is the enter's own: as in the merged ABI. */
TWIN(bad_wait_without_progress) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT); return GO_ON; }
TWIN(good_wait_without_progress) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT) + 1; return GO_ON; }

TWIN(bad_wait_fields_stale)
{
	REGIONS;
	WORD(rings, CQ_HEAD_AT)++;
	if (WORD(rings, SQ_TAIL_AT))
		return GO_ON;
	INDEX = WORD(rings, CQ_HEAD_AT) + 1;
	return GO_ON;
}
TWIN(good_wait_fields_stale)
{
	REGIONS;
	WORD(rings, CQ_HEAD_AT)++;
	INDEX = WORD(rings, CQ_HEAD_AT) + 1;
	return GO_ON;
}

/* With a timeout, a wait that no completion ends is a sleep. */
TWIN(ok_sleep)
{
	REGIONS;
	INDEX = WORD(rings, CQ_HEAD_AT) + 17;
	state->flags = 1;
	state->timeout_ns = 1000000;
	return GO_ON;
}
#else
/* Inside an ordinary wait, which sleeps by itself. */
TWIN(ok_no_index) { REGIONS; INDEX = WORD(rings, CQ_HEAD_AT); return GO_ON; }

/* More than the program fills: the SQ's head says which. */
TWIN(ok_submit_others)
{
	u8 *sq = bpf_io_uring_get_region(ring, SQ, sizeof(struct sqe));

	if (!sq)
		return STOP;
	results += bpf_io_uring_submit_sqes(ring, 2);
	return STOP;
}
#endif
#endif
