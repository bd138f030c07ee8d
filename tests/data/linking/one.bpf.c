// SPDX-License-Identifier: MIT
/* The first of two objects that become one: what is said of a name here meets what two.bpf.c says. */
#include "linking.h"

LICENSE("Dual MIT/GPL");

/* The same map for both; one whose definition may be anybody's; one of the file's own. */
struct array counts SEC(".maps");
struct array shared SEC(".maps") __weak;
static struct array own SEC(".maps");

/* Defined here; weak here and strong there; the file's own, as is one of that name there. */
u32 total = 5;
u32 limit __weak = 3;
static volatile u32 turns = 100;
const volatile u32 entries = 8;
static const volatile u64 odd[3] = { 11, 13, 17 };
u8 flag; /* what two.bpf.c puts behind it is aligned anew */

NOINLINE u32 scale(u32 number) __weak;
extern u32 weigh(u32 number);
extern HIDDEN u32 doubled(u32 number);

/* Weak in both: the first one counts. */
NOINLINE __weak u32 scale(u32 number)
{
	return number * 10;
}

/* Of this name there is one in each file. */
static NOINLINE u32 mine(u32 number)
{
	turns++;
	return number + turns;
}

RING_STEP(step_one)
{
	u8 *sq = bpf_io_uring_get_region(ring, REGION_SQ, sizeof(struct sqe));

	if (!sq)
		return LOOP_STOP;
	put(&counts, 0, mine(1));                  /* 102 */
	put(&counts, 1, weigh(4));                 /* 4 * 202 */
	put(&shared, 0, scale(2) + doubled(3));    /* 20 + 6 */
	put(&own, 0, limit + odd[2] + entries);    /* 7 + 17 + 8 */
	put(&own, 1, CONFIG_HZ);
	total += at(&own, 0);                      /* 5 + 32 */
	sqe_clear((struct sqe *)sq);
	((struct sqe *)sq)->user_data = total;
	return bpf_io_uring_submit_sqes(ring, 1) == 1 ? LOOP_STOP : LOOP_CONTINUE;
}
RING_OPS(first, step_one);
