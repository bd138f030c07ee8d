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

#define __kptr __attribute__((btf_type_tag("kptr")))
#define __contains(type, member) __attribute__((btf_decl_tag("contains:" #type ":" #member)))

/* A map value that owns a task, or NULL. */
struct watched {
	u64 count;
	struct task_struct __kptr *task;
};

/* Map values with a timer, and with a list of the program's own objects. */
struct bpf_timer {
	u64 __opaque[2];
};

struct timed {
	u64 count;
	struct bpf_timer timer;
};

struct bpf_list_node {
	u64 __opaque[3];
};

struct bpf_list_head {
	u64 __opaque[2];
};

struct element {
	u64 key;
	struct bpf_list_node node;
};

struct listed {
	struct bpf_spin_lock lock;
	struct bpf_list_head head __contains(element, node);
};

void *bpf_obj_new_impl(u64 local_type_id__k, void *meta__ign) { return (void *)0; }
void bpf_obj_drop_impl(void *p__alloc, void *meta__ign) {}
int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node,
			     void *meta__ign, u64 off)
{
	return 0;
}

/* The type of a sample's main function: kernels want to know it of programs with own objects. */
int sample(void *ctx) { return 0; }

/* Types that no function names are kept by these. */
void kept(struct task_struct__safe_rcu *members, struct guarded *value, btf_trace_sched_switch traced)
{
}

void kept_too(struct watched *watched, struct timed *timed, struct element *element,
	      struct listed *listed)
{
}
