// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Hello: a completion out, the same completion back in, and a word of the host's memory changed.
 * user_data is the address of a u32.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(visits, u64, 1, 0);

RING_PROG(hello)
{
	struct io_uring_cqe letter;
	void *user = (void *)ctx->user_data;
	u64 *visit = slot(&visits, 0);
	u32 word = 0;

	if (visit)
		*visit += 1;

	copy_from_user(&word, sizeof(word), user);
	emit(ctx, 1, word, 42, 0);
	if (reap(ctx, 1, &letter))
		return finish(ctx);

	word = letter.user_data + letter.res;
	copy_to_user(user, &word, sizeof(word));
	emit(ctx, 0, letter.user_data, letter.res, 0);
	return finish(ctx);
}
