// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* CO-RE against the types of whatever kernel runs: few fields, all of them long-lived. */
#include "bpf.h"

#define CORE __attribute__((preserve_access_index))
#define FIELD(f, what) __builtin_preserve_field_info(f, what)

struct list_head {
	struct list_head *next, *prev;
} CORE;

struct task_struct {
	int pid, tgid;
	char comm[16];
	struct task_struct *real_parent;
	unsigned in_execve : 1;
	struct list_head tasks;
	int of_nobody;
} CORE;

struct task_struct___old {
	long state;
} CORE;

enum bpf_prog_type { BPF_PROG_TYPE_XDP = 100 };

u64 out[16];

SEC("socket")
int kernel_types(void *ctx)
{
	struct task_struct *task = (void *)out;
	struct task_struct___old *old = (void *)out;

	out[0] = FIELD(task->pid, 0);
	out[1] = FIELD(task->tgid, 0);
	out[2] = FIELD(task->comm, 0);
	out[3] = FIELD(task->comm, 1);
	out[4] = FIELD(task->real_parent, 0);
	out[5] = FIELD(task->in_execve, 4);
	out[6] = FIELD(task->in_execve, 5);
	out[7] = FIELD(task->tasks.prev, 0);
	out[8] = FIELD(task->of_nobody, 2);
	out[9] = FIELD(old->state, 2);
	out[10] = __builtin_preserve_type_info(*(struct task_struct *)0, 1);
	out[11] = __builtin_preserve_enum_value(*(enum bpf_prog_type *)BPF_PROG_TYPE_XDP, 1);
	out[12] = __builtin_btf_type_id(*(struct list_head *)0, 1);
	return 0;
}
