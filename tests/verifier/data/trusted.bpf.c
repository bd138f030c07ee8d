// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Global functions that take objects of the kernel's; each program calls one rightly or wrongly. */
typedef unsigned int u32;
typedef unsigned long long u64;
struct task_struct { int pid; struct task_struct *group_leader, *real_parent; } __attribute__((preserve_access_index));
struct no_such_struct { int pid; };
#define SEC(n) __attribute__((section(n), used))
#define NOINLINE __attribute__((noinline))
#define TRUSTED __attribute__((btf_decl_tag("arg:trusted")))
#define NULLABLE __attribute__((btf_decl_tag("arg:nullable")))
#define ARG_CTX __attribute__((btf_decl_tag("arg:ctx")))
#define KSYM __attribute__((section(".ksyms")))
#define KEPT(v) (*(volatile typeof(v) *)&(v))
char LICENSE[] SEC("license") = "GPL";
extern struct task_struct *bpf_task_acquire(struct task_struct *p) KSYM;
extern void bpf_task_release(struct task_struct *p) KSYM;
struct { int (*type)[1]; int (*max_entries)[4]; u32 *key; u32 *value; } small SEC(".maps");
static void *(*const lookup)(void *map, const void *key) = (void *)1;
u32 changing;

NOINLINE int pid_of(struct task_struct *t TRUSTED) { return KEPT(t->pid); }
NOINLINE int pid_or(struct task_struct *t TRUSTED NULLABLE) { return t ? KEPT(t->pid) : 0; }
NOINLINE int pid_unchecked(struct task_struct *t TRUSTED NULLABLE) { return KEPT(t->pid); }
NOINLINE int holds(struct task_struct *t TRUSTED)
{
	struct task_struct *own = bpf_task_acquire(t);

	if (own)
		bpf_task_release(own);
	return own != 0;
}
NOINLINE int leaks(struct task_struct *t TRUSTED) { return bpf_task_acquire(t) != 0; }
NOINLINE int releases(struct task_struct *t TRUSTED) { bpf_task_release(t); return KEPT(changing); }
NOINLINE int plain(struct task_struct *t) { return t ? KEPT(t->pid) : 0; }
NOINLINE int stranger(struct no_such_struct *t TRUSTED) { return KEPT(t->pid); }
NOINLINE void nothing(u32 *p) { if (p) KEPT(*p) = 1; }
NOINLINE u32 *pointer(u32 *p) { return KEPT(changing) ? p : 0; }
NOINLINE int anything(void *p) { return p ? KEPT(changing) : 0; }
NOINLINE int wide(u64 *p) { return p ? KEPT(*p) : 0; }
NOINLINE int narrow(u32 *p) { return p ? KEPT(*p) : 0; }

#define TASK(c) ((struct task_struct *)(c)[2])
#define PROG(name) SEC("tp_btf/sched_switch") int name(u64 *c)
PROG(ok_trusted) { return pid_of(TASK(c)); }
PROG(no_null) { return pid_of(0); }
PROG(no_number) { return pid_of((void *)5); }
PROG(no_stack) { u64 own[4] = {}; return pid_of((void *)own); }
PROG(no_offset) { return pid_of((void *)(c[2] + 8)); }
PROG(ok_nullable) { return pid_or(TASK(c)) + pid_or(0); }
PROG(no_check) { return pid_unchecked(TASK(c)); }
PROG(ok_holds) { return holds(TASK(c)); }
PROG(no_leak) { return leaks(TASK(c)); }
PROG(no_release) { return releases(TASK(c)); }
PROG(no_plain) { return plain(TASK(c)); }
PROG(no_stranger) { return stranger((void *)TASK(c)); }
PROG(ok_rcu) { return pid_of(TASK(c)->group_leader); }
PROG(ok_referenced)
{
	struct task_struct *own = bpf_task_acquire(TASK(c));
	int pid;

	if (!own)
		return 0;
	pid = pid_of(own);
	bpf_task_release(own);
	return pid;
}
PROG(no_released)
{
	struct task_struct *own = bpf_task_acquire(TASK(c));

	if (!own)
		return 0;
	bpf_task_release(own);
	return pid_of(own);
}
PROG(no_acquired_unchecked)
{
	struct task_struct *own = bpf_task_acquire(TASK(c));
	int pid = pid_of(own);

	if (own)
		bpf_task_release(own);
	return pid;
}
PROG(no_void) { u32 own = 1; nothing(&own); return own; }
PROG(no_pointer) { u32 own = 1; return pointer(&own) != 0; }
PROG(no_void_parameter) { u32 own = 1; return anything(&own); }
PROG(ok_maybe_null) { u32 key = 0; return narrow(lookup(&small, &key)); }
PROG(no_maybe_null_small) { u32 key = 0; return wide(lookup(&small, &key)); }
