// SPDX-License-Identifier: MIT
/* One program for each dialect without a loop: -DDIALECT=81, 82 or 83. */
#include "dialect.h"

struct data;
struct uring_bpf_ops {
#if DIALECT == 81
	u8 id;
#else
	u16 id;
	s32 ring_fd;
#endif
	int (*prep)(struct data *data, void *sqe);
	int (*issue)(struct data *data);
	void (*fail)(struct data *data, void *sqe);
	void (*cleanup)(struct data *data);
};
#if DIALECT == 82
extern int uring_bpf_memcpy(struct data *data, void *dst, void *src) __ksym;
#endif

SEC("struct_ops/issue") int issue(u64 *args)
{
#if DIALECT == 82
	return uring_bpf_memcpy((struct data *)args[0], 0, 0);
#else
	return 0;
#endif
}
SEC(".struct_ops.link") struct uring_bpf_ops ops = { .issue = (void *)issue };
