// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Global functions that take objects of the kernel, untrusted pointers, packets, and memory that may
   be NULL; each program calls one rightly or wrongly. */
typedef unsigned int u32;
typedef unsigned long long u64;
#define SEC(n) __attribute__((section(n), used))
#define NOINLINE __attribute__((noinline))
#define TAG(name) __attribute__((btf_decl_tag("arg:" #name)))
#define RELOCATED __attribute__((preserve_access_index))
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct task_struct { int pid; struct task_struct *real_parent, *group_leader, *last_wakee; } RELOCATED;
struct task_struct___own { int pid; } RELOCATED;
struct nowhere { int a; } RELOCATED;
typedef struct task_struct *task;
struct { u32 (*type)[2]; u32 *key; u64 *value; u32 (*max_entries)[4]; } table SEC(".maps");
char LICENSE[] SEC("license") = "GPL";

task bpf_task_acquire(task p) SEC(".ksyms");
void bpf_task_release(task p) SEC(".ksyms");
task bpf_task_from_pid(int pid) SEC(".ksyms");
void bpf_rcu_read_lock(void) SEC(".ksyms");
void bpf_rcu_read_unlock(void) SEC(".ksyms");
static task (*current)(void) = (void *)158;
static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;

NOINLINE int reads(task p TAG(trusted)) { return p->pid & 1; }
NOINLINE int asks(task p TAG(trusted) TAG(nullable)) { return p ? p->pid & 1 : 0; }
NOINLINE int asks_not(task p TAG(trusted) TAG(nullable)) { return p->pid & 1; }
NOINLINE int excludes(task p TAG(trusted) TAG(nonnull)) { return p->pid & 1; }
NOINLINE int holds(task p TAG(trusted))
{
	task held = bpf_task_acquire(p);
	if (held)
		bpf_task_release(held);
	return 0;
}
NOINLINE int lets_go(task p TAG(trusted)) { bpf_task_release(p); return 0; }
NOINLINE int leaks(task p TAG(trusted)) { return bpf_task_acquire(p) != 0; }
NOINLINE int own(struct task_struct___own *p TAG(trusted)) { return p->pid & 1; }
NOINLINE int unknown(struct nowhere *p TAG(trusted)) { return p->a & 1; }
NOINLINE int writes(task p TAG(trusted)) { p->pid = 1; return 0; }
NOINLINE int hands_on(task p TAG(trusted)) { return reads(p); }
NOINLINE int hands_null_on(task p TAG(trusted) TAG(nullable)) { return reads(p); }
NOINLINE int hands_parent_on(task p TAG(trusted)) { return reads(p->real_parent); }
NOINLINE int probes(task p TAG(untrusted)) { return p->pid & 1; }
NOINLINE int probes_int(int *p TAG(untrusted)) { return *p & 1; }
NOINLINE int probes_void(void *p TAG(untrusted)) { return *(u64 *)p & 1; }
NOINLINE int probes_and_writes(task p TAG(untrusted)) { p->pid = 1; return 0; }
NOINLINE int probes_and_trusts(task p TAG(untrusted)) { return reads(p); }
NOINLINE int untagged(task p) { return p ? p->pid & 1 : 0; }
NOINLINE void nothing(u64 *p) { if (p) *(volatile u64 *)p = 1; }
NOINLINE u64 *same(u64 *p) { return p && *(volatile u64 *)p ? p : 0; }
NOINLINE int anything(void *p) { return p && ({ asm volatile(""); 1; }); }
NOINLINE int wide(u64 (*p)[2]) { return p ? (*p)[1] & 1 : 0; }
NOINLINE int memory(u64 *p) { return p ? *p & 1 : 0; }
NOINLINE int memory_there(u64 *p TAG(nonnull)) { return *p & 1; }

#define ON_SWITCH(name) SEC("tp_btf/sched_switch") int name(u64 *ctx)
#define PREVIOUS ((task)ctx[1])
ON_SWITCH(gives_argument) { return reads(PREVIOUS); }
ON_SWITCH(gives_current) { return reads(current()); }
ON_SWITCH(gives_null) { return reads(0); }
ON_SWITCH(gives_context) { return reads((task)ctx); }
ON_SWITCH(gives_number) { return reads((task)ctx[3]); }
ON_SWITCH(gives_stack) { u64 a = 1; return reads((task)&a); }
ON_SWITCH(gives_inside) { return reads((void *)PREVIOUS + 4); }
ON_SWITCH(gives_stale) { return reads(PREVIOUS->last_wakee); }
ON_SWITCH(gives_released)
{
	task held = bpf_task_acquire(PREVIOUS);
	if (!held)
		return 0;
	bpf_task_release(held);
	return reads(held);
}
ON_SWITCH(to_untagged) { return untagged(PREVIOUS); }
ON_SWITCH(to_one_that_leaks) { return leaks(PREVIOUS); }
ON_SWITCH(gives_walked) { return reads(PREVIOUS->group_leader); }
ON_SWITCH(gives_walked_in_rcu)
{
	bpf_rcu_read_lock();
	int r = reads(PREVIOUS->real_parent);
	bpf_rcu_read_unlock();
	return r;
}
ON_SWITCH(gives_parent) { return hands_parent_on(PREVIOUS); }
ON_SWITCH(gives_held)
{
	task held = bpf_task_from_pid(1);
	if (!held)
		return 0;
	int r = reads(held);
	bpf_task_release(held);
	return r;
}
ON_SWITCH(gives_held_unasked)
{
	task held = bpf_task_from_pid(1);
	int r = reads(held);
	if (held)
		bpf_task_release(held);
	return r;
}
ON_SWITCH(gives_held_to_one_that_asks)
{
	task held = bpf_task_from_pid(1);
	int r = asks(held);
	if (held)
		bpf_task_release(held);
	return r;
}
ON_SWITCH(gives_null_to_one_that_asks) { return asks(0); }
ON_SWITCH(to_one_that_asks_not) { return asks_not(PREVIOUS); }
ON_SWITCH(to_tags_that_exclude) { return excludes(PREVIOUS); }
ON_SWITCH(to_one_that_holds) { return holds(PREVIOUS); }
ON_SWITCH(to_one_that_lets_go) { return lets_go(PREVIOUS); }
ON_SWITCH(to_own_flavour) { return own((void *)PREVIOUS); }
ON_SWITCH(to_unknown) { return unknown((void *)PREVIOUS); }
ON_SWITCH(to_one_that_writes) { return writes(PREVIOUS); }
ON_SWITCH(handed_on) { return hands_on(PREVIOUS); }
ON_SWITCH(null_handed_on) { return hands_null_on(PREVIOUS); }
ON_SWITCH(untrusted_argument) { return probes(PREVIOUS); }
ON_SWITCH(untrusted_null) { return probes(0); }
ON_SWITCH(untrusted_number) { return probes((task)ctx[3]); }
ON_SWITCH(untrusted_stack) { u64 a = 1; return probes((task)&a); }
ON_SWITCH(untrusted_int) { return probes_int((int *)ctx[3]); }
ON_SWITCH(untrusted_void) { return probes_void((void *)ctx[3]); }
ON_SWITCH(untrusted_written) { return probes_and_writes(PREVIOUS); }
ON_SWITCH(untrusted_trusted) { return probes_and_trusts(PREVIOUS); }
SEC("tp_btf/kfree_skb") int gives_another_struct(u64 *ctx) { return reads((task)ctx[0]); }
SEC("xdp") int gives_current_in_xdp(void *ctx) { return reads(current()); }
SEC("xdp") int gives_a_lookup(void *ctx) { u32 key = 1; return memory(lookup(&table, &key)); }
SEC("xdp") int gives_a_lookup_unasked(void *ctx)
{
	u32 key = 1;
	return memory_there(lookup(&table, &key));
}
SEC("xdp") int gives_packet(struct xdp_md *ctx)
{
	u64 *packet = (void *)(long)ctx->data;
	return (void *)(packet + 1) > (void *)(long)ctx->data_end ? 0 : memory(packet);
}
SEC("xdp") int gives_unchecked_packet(struct xdp_md *ctx)
{
	return memory((void *)(long)ctx->data);
}
SEC("xdp") int gives_a_small_lookup(void *ctx) { u32 key = 1; return wide(lookup(&table, &key)); }
SEC("xdp") int of_one_that_returns_nothing(void *ctx) { u64 a = 1; nothing(&a); return a & 1; }
SEC("xdp") int of_one_that_returns_a_pointer(void *ctx) { u64 a = 1; return same(&a) != 0; }
SEC("xdp") int to_one_that_takes_anything(void *ctx) { u64 a = 1; return anything(&a); }
NOINLINE int moves(struct xdp_md *ctx, u64 *p)
{
	long moved = adjust_tail(ctx, -8);
	return p && !moved ? *p & 1 : 0;
}
SEC("xdp") int gives_packet_to_one_that_moves_it(struct xdp_md *ctx)
{
	u64 *packet = (void *)(long)ctx->data;
	return (void *)(packet + 1) > (void *)(long)ctx->data_end ? 0 : moves(ctx, packet);
}
SEC("xdp") int gives_stack_to_one_that_moves_it(struct xdp_md *ctx)
{
	u64 own = 1;
	return moves(ctx, &own);
}
