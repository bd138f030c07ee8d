// SPDX-License-Identifier: MIT
/*
 * Types and kernel functions that the cards of rules name, as far as they need them. Nothing of it
 * runs: only the types are kept (kernel.btf), and stand for those of a kernel.
 */
typedef unsigned long long u64;
typedef int s32;
typedef _Bool bool;

struct task_struct {
	s32 pid;
	struct task_struct *real_parent;
	struct task_struct *last_wakee;
};

/* Members that stay valid as long as the task does, as the kernel's BTF lists them. */
struct task_struct__safe_rcu {
	struct task_struct *real_parent;
};

typedef void (*btf_trace_sched_switch)(void *, bool preempt, struct task_struct *prev,
				       struct task_struct *next, unsigned int prev_state);

struct task_struct *bpf_task_acquire(struct task_struct *p) { return p; }
struct task_struct *bpf_task_from_pid(s32 pid) { return (void *)0; }
void bpf_task_release(struct task_struct *p) {}

struct bpf_iter_num {
	u64 __opaque[1];
};

int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) { return 0; }
int *bpf_iter_num_next(struct bpf_iter_num *it) { return (void *)0; }
void bpf_iter_num_destroy(struct bpf_iter_num *it) {}

void bpf_rcu_read_lock(void) {}
void bpf_rcu_read_unlock(void) {}

struct bpf_spin_lock {
	unsigned int val;
};

/* A map value whose counter is protected by its lock. */
struct guarded {
	u64 count;
	struct bpf_spin_lock lock;
	unsigned int unused;
};

/* Types that no function names are kept by this one. */
void kept(struct task_struct__safe_rcu *members, struct guarded *value, btf_trace_sched_switch traced)
{
}
