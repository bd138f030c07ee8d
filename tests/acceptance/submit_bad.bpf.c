// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * ABI note, section 4.5: submit a request whose opcode does not exist and keep the helper's
 * answer. The only program here that needs nothing but the submit helper, so the only one for v1.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

ARRAY_OF(arr, u64, 256, 0);

RING_PROG(submit_bad)
{
	struct io_uring_sqe sqe = { .opcode = 244, .user_data = 60 };
	long answer = submit(ctx, &sqe);
	u64 *cell = slot(&arr, 0);

	if (cell)
		*cell = answer;
	return 0;
}
