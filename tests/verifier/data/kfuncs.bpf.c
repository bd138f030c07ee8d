// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Kernel functions called by name: a pair, a leak, and a weak one that no kernel has. */
typedef unsigned long long u64; typedef int s32;
struct task_struct { int pid; } __attribute__((preserve_access_index));
#define SEC(n) __attribute__((section(n), used))
extern struct task_struct *bpf_task_from_pid(s32 pid) __attribute__((section(".ksyms")));
extern void bpf_task_release(struct task_struct *p) __attribute__((section(".ksyms")));
extern void bpf_no_such(void) __attribute__((section(".ksyms"), weak));
char LICENSE[] SEC("license") = "GPL";
SEC("tp_btf/sched_switch") int good(u64 *ctx) {
  struct task_struct *next = (void*)ctx[2];
  struct task_struct *t = bpf_task_from_pid(next->pid);
  if (!t) return 0;
  int pid = t->pid;
  bpf_task_release(t);
  return pid;
}
SEC("tp_btf/sched_switch") int leaks(u64 *ctx) {
  struct task_struct *t = bpf_task_from_pid(1);
  return !t;
}
SEC("tp_btf/sched_switch") int weak(u64 *ctx) { bpf_no_such(); return 0; }
