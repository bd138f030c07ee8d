// SPDX-License-Identifier: MIT
/*
 * Twins of the lints of rings with a loop: bad_ID is what it is about, good_ID the smallest change
 * that mends it, with _ for - in ids. Those with `ring` in their names are about a ring that they
 * are held against: 8 SQEs, 16 CQEs, SQ_REWIND, no MEM; with `plain`, about one without SQ_REWIND.
 */
#include "io_uring_loop.h"

LICENSE("Dual MIT/GPL");

enum { SQES = 8, CQES = 16 };

u32 taken, results;

#define CQ_BYTES(entries) (CQES_AT + (entries) * sizeof(struct cqe))
#define REGIONS                                                             \
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, SQES * sizeof(struct sqe)); \
	u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES(CQES));  \
	if (!sq || !cq)                                                     \
		return LOOP_STOP
#define CQE(cq, index, entries) ((volatile struct cqe *)((cq) + CQES_AT) + ((index) & ((entries)-1)))

#define TWIN(name)                      \
	int name(u64 *args);            \
	RING_OPS(name##_ops, name);     \
	RING_STEP(name)

/* --- who writes what ------------------------------------------------------------------------- */

#define RESETS(name, at)                        \
	TWIN(name)                         \
	{                                       \
		REGIONS;                        \
		WORD(cq, at) = WORD(cq, CQ_TAIL_AT); \
		return LOOP_STOP;               \
	}

RESETS(bad_ring_word_ownership, 44)
RESETS(good_ring_word_ownership, CQ_HEAD_AT)
RESETS(bad_ring_word_ownership_of_a_tail, CQ_TAIL_AT)
RESETS(good_ring_word_ownership_of_a_tail, SQ_TAIL_AT)

#define MARKS(name, store)                            \
	TWIN(name)                               \
	{                                             \
		REGIONS;                              \
		u32 head = WORD(cq, CQ_HEAD_AT);      \
		volatile struct cqe *done = CQE(cq, head, CQES); \
		taken += done->res;                   \
		store;                                \
		WORD(cq, CQ_HEAD_AT) = head + 1;      \
		return LOOP_STOP;                     \
	}

MARKS(bad_ring_word_ownership_of_cqes, done->flags = 0)
MARKS(good_ring_word_ownership_of_cqes, taken += done->flags)

/* --- heads and indices ------------------------------------------------------------------------ */

#define TAKES(name, new_head, index)                \
	TWIN(name)                             \
	{                                           \
		REGIONS;                            \
		u32 head = WORD(cq, CQ_HEAD_AT);    \
		WORD(cq, CQ_HEAD_AT) = new_head;    \
		params->cq_wait_idx = index;        \
		return LOOP_CONTINUE;               \
	}

TAKES(bad_cq_head_stale, head + 1, head + 1)
TAKES(good_cq_head_stale, head + 1, head + 2)
TAKES(bad_cq_head_stale_constant, 0, head + 2)
TAKES(good_cq_head_stale_constant, head, head + 2)
TAKES(bad_wait_never_satisfied, head + 1, 4)
TAKES(good_wait_never_satisfied, head + 1, head + 4)
TAKES(bad_wait_never_satisfied_too_many, head, head + CQES + 1)
TAKES(good_wait_never_satisfied_too_many, head, head + CQES)

#define TAKES_BACK(name, second)                    \
	TWIN(name)                             \
	{                                           \
		REGIONS;                            \
		u32 head = WORD(cq, CQ_HEAD_AT);    \
		WORD(cq, CQ_HEAD_AT) = head + 2;    \
		taken++;                            \
		WORD(cq, CQ_HEAD_AT) = second;      \
		return LOOP_STOP;                   \
	}

TAKES_BACK(bad_cq_head_stale_back, head + 1)
TAKES_BACK(good_cq_head_stale_back, head + 3)

#define TAIL_AND(name, number)                                      \
	TWIN(name)                                             \
	{                                                           \
		REGIONS;                                            \
		params->cq_wait_idx = WORD(cq, CQ_TAIL_AT) + (number); \
		return LOOP_CONTINUE;                               \
	}

TAIL_AND(bad_wait_never_satisfied_from_the_tail, 17)
TAIL_AND(good_wait_never_satisfied_from_the_tail, 1)

#define GOES_ON(name, otherwise)                            \
	TWIN(name)                                     \
	{                                                   \
		REGIONS;                                    \
		u32 head = WORD(cq, CQ_HEAD_AT);            \
		if (taken++ & 1) {                          \
			otherwise;                          \
			return LOOP_CONTINUE;               \
		}                                           \
		params->cq_wait_idx = head + 2;             \
		return LOOP_CONTINUE;                       \
	}

GOES_ON(bad_wait_fields_stale, )
GOES_ON(good_wait_fields_stale, params->cq_wait_idx = 0)

#define POLLS(name, then)                                   \
	TWIN(name)                                     \
	{                                                   \
		REGIONS;                                    \
		u32 head = WORD(cq, CQ_HEAD_AT);            \
		if (head == WORD(cq, CQ_TAIL_AT)) {         \
			params->cq_wait_idx = then;         \
			return LOOP_CONTINUE;               \
		}                                           \
		WORD(cq, CQ_HEAD_AT) = head + 1;            \
		return LOOP_STOP;                           \
	}

POLLS(bad_wait_without_progress, head)
POLLS(good_wait_without_progress, head + 1)

/* --- masks ------------------------------------------------------------------------------------ */

#define READS(name, asked, masked)                                                  \
	TWIN(name)                                                             \
	{                                                                           \
		u8 *cq = bpf_io_uring_get_region(ring, REGION_CQ, CQ_BYTES(asked)); \
		u32 head;                                                           \
		if (!cq)                                                            \
			return LOOP_STOP;                                           \
		head = WORD(cq, CQ_HEAD_AT);                                        \
		results += CQE(cq, head, masked)->res;                              \
		WORD(cq, CQ_HEAD_AT) = head + 1;                                    \
		return LOOP_STOP;                                                   \
	}

READS(bad_cq_mask, 16, 8)
READS(good_cq_mask, 16, 16)
READS(bad_cq_mask_of_the_ring, 48, 32)
READS(good_cq_mask_of_the_ring, 48, 16)

/* --- submitting ------------------------------------------------------------------------------- */

#define SUBMITS(name, asked, number)                                               \
	TWIN(name)                                                            \
	{                                                                          \
		u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, (asked) * sizeof(struct sqe)); \
		if (!sq)                                                           \
			return LOOP_STOP;                                          \
		sqe_clear((struct sqe *)sq);                                       \
		if (bpf_io_uring_submit_sqes(ring, number) != 1)                   \
			results++;                                                 \
		return LOOP_STOP;                                                  \
	}

SUBMITS(bad_submit_count, 8, 0)
SUBMITS(good_submit_count, 8, 1)
SUBMITS(bad_submit_count_beyond_memory, 1, 2)
SUBMITS(good_submit_count_beyond_memory, 1, 1)
SUBMITS(bad_submit_count_of_the_ring, 16, 9)
SUBMITS(good_submit_count_of_the_ring, 16, 8)

#define IGNORES(name, looks)                            \
	TWIN(name)                                 \
	{                                               \
		REGIONS;                                \
		sqe_clear((struct sqe *)sq);            \
		looks bpf_io_uring_submit_sqes(ring, 1); \
		return LOOP_STOP;                       \
	}

IGNORES(bad_submit_result_ignored, )
IGNORES(good_submit_result_ignored, results +=)

/* --- what the ring is ------------------------------------------------------------------------- */

/* A function that is judged by itself: its 0 is no answer to the loop. */
__attribute__((noinline)) int weigh(u32 word)
{
	return word > 5 ? 7 : 0;
}

#define ASKS(name, region, size)                                        \
	TWIN(name)                                                 \
	{                                                               \
		u8 *memory = bpf_io_uring_get_region(ring, region, size); \
		if (memory)                                             \
			taken += weigh(WORD(memory, 0));                \
		return LOOP_STOP;                                       \
	}

ASKS(bad_ring_region, 3, 64)
ASKS(good_ring_region, REGION_MEM, 64)
ASKS(bad_ring_region_of_the_ring, REGION_CQ, 4100)
ASKS(good_ring_region_of_the_ring, REGION_CQ, 4096)
ASKS(bad_ring_region_of_the_ring_mem, REGION_MEM, 64)
ASKS(good_ring_region_of_the_ring_mem, REGION_SQ, 64)

#define PUBLISHES(name, moves)                                  \
	TWIN(name)                                         \
	{                                                       \
		REGIONS;                                        \
		sqe_clear((struct sqe *)sq);                    \
		moves;                                          \
		results += bpf_io_uring_submit_sqes(ring, 1);   \
		return LOOP_STOP;                               \
	}

PUBLISHES(bad_ring_setup_of_the_ring, WORD(cq, SQ_TAIL_AT) += 1)
PUBLISHES(good_ring_setup_of_the_ring, )
PUBLISHES(bad_ring_setup_of_the_plain_ring, )
PUBLISHES(good_ring_setup_of_the_plain_ring, WORD(cq, SQ_TAIL_AT) += 1)
