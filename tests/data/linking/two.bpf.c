// SPDX-License-Identifier: MIT
/* The second of two objects that become one: see one.bpf.c. */
#include "linking.h"

LICENSE("Dual MIT/GPL");

extern struct array counts __attribute__((section(".maps")));
struct array shared SEC(".maps") __weak;
static struct array own SEC(".maps");

extern u32 total;
u32 limit = 7;
static volatile u32 turns = 200;
extern const volatile u32 entries;
static const volatile u64 odd[2] = { 19, 23 };

u32 weigh(u32 number);
HIDDEN u32 doubled(u32 number);
NOINLINE __weak u32 scale(u32 number);

static NOINLINE u32 mine(u32 number)
{
	turns += 2;
	return number * turns;
}

NOINLINE u32 weigh(u32 number)
{
	return number * mine(1);
}

NOINLINE HIDDEN u32 doubled(u32 number)
{
	return number + number;
}

NOINLINE __weak u32 scale(u32 number)
{
	return number * 1000;
}

/* No kernel has it. */
extern int bpf_io_uring_nobody_has_this(void) __ksym __weak;

RING_STEP(step_two)
{
	if (bpf_io_uring_nobody_has_this)
		bpf_io_uring_nobody_has_this();
	put(&counts, 2, mine(3));                             /* 3 * 204 */
	put(&counts, 3, scale(5) + doubled(at(&shared, 0)));  /* 50 + 52 */
	put(&own, 0, odd[1] + entries + limit);               /* 23 + 8 + 7 */
	put(&own, 1, CONFIG_HZ + 1);
	total += at(&own, 0);                                 /* + 38 */
	return LOOP_STOP;
}
RING_OPS(second, step_two);
