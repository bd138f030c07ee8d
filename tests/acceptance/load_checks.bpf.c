// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Programs that the kernel of an ABI would not load (ABI note, sections 2.1 to 2.4 and 4.6).
 * `fine` is there so that the object has one that every profile loads.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(out, u64, 16, 0);

RING_PROG(fine)
{
	return 0;
}

/* v3: WAIT. Before: outside the allowed range. */
RING_PROG(return_one)
{
	return 1;
}

RING_PROG(return_two)
{
	return 2;
}

/* The return value is whatever user memory holds. */
RING_PROG(return_unknown)
{
	u32 word = 0;

	copy_from_user(&word, sizeof(word), (void *)ctx->user_data);
	return word;
}

/* wait_nr and wait_idx with one store: what clang makes of two neighbouring plain stores. */
RING_PROG(wide_store)
{
	*(volatile u64 *)((char *)ctx + 8) = 1;
	return 0;
}

/* Half of user_data. */
RING_PROG(narrow_load)
{
	u64 *cell = slot(&out, 0);
	u32 half = *(volatile u32 *)ctx;

	if (cell)
		*cell = half;
	return 0;
}

/* user_data may be written in v2, not in v3. */
RING_PROG(write_user_data)
{
	*(volatile u64 *)ctx = 1;
	return 0;
}

RING_PROG(beyond_ctx)
{
	*(volatile u32 *)((char *)ctx + 16) = 1;
	return 0;
}

/* A helper number that no ABI here has. */
RING_PROG(unknown_helper)
{
	HELPER(190, long, no_such_helper, void *);

	no_such_helper(ctx);
	return 0;
}
