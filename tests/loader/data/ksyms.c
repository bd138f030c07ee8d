// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Values of the kernel's configuration, and addresses of its variables and functions. */
#include "bpf.h"

#define KCONFIG __attribute__((section(".kconfig")))
#define KSYM __attribute__((section(".ksyms")))
#define WEAK __attribute__((weak))

enum libbpf_tristate { TRI_NO, TRI_YES, TRI_MODULE };

extern int LINUX_KERNEL_VERSION KCONFIG;
extern _Bool LINUX_HAS_BPF_COOKIE KCONFIG WEAK;
extern _Bool CONFIG_BPF_SYSCALL KCONFIG;
extern enum libbpf_tristate CONFIG_TMPFS KCONFIG;
extern char CONFIG_BLOCK KCONFIG;
extern u64 CONFIG_HZ KCONFIG;
extern short CONFIG_NR_CPUS KCONFIG;
extern const char CONFIG_DEFAULT_HOSTNAME[4] KCONFIG;
extern int CONFIG_NOT_THERE_AT_ALL KCONFIG WEAK;

int out[10];

SEC("socket")
int configured(void *ctx)
{
	out[0] = LINUX_KERNEL_VERSION;
	out[1] = CONFIG_BPF_SYSCALL;
	out[2] = CONFIG_TMPFS;
	out[3] = CONFIG_BLOCK;
	out[4] = CONFIG_HZ;
	out[5] = CONFIG_NR_CPUS;
	out[6] = CONFIG_DEFAULT_HOSTNAME[1];
	out[7] = CONFIG_NOT_THERE_AT_ALL;
	out[8] = CONFIG_DEFAULT_HOSTNAME[3];
	return 0;
}

/* What is behind the test is not looked at where the value is 0. */
SEC("socket")
int folded(void *ctx)
{
	if (CONFIG_NOT_THERE_AT_ALL)
		return *(volatile int *)0;
	return CONFIG_BPF_SYSCALL;
}

extern int bpf_no_such_function(u32 x) KSYM WEAK;
extern const int no_such_variable KSYM WEAK;
extern const void untyped KSYM WEAK;

SEC("socket")
int missing(void *ctx)
{
	if (bpf_no_such_function)
		return bpf_no_such_function(1);
	return &no_such_variable ? 1 : 0;
}

SEC("socket")
int without_type(void *ctx)
{
	return &untyped != 0;
}

extern const void _stext KSYM;
extern const void init_task KSYM WEAK;
u64 addresses[2];

SEC("socket")
int addressed(void *ctx)
{
	addresses[0] = (u64)&_stext;
	addresses[1] = (u64)&init_task;
	return 0;
}

/* To a verifier the address is a number, and memory is not reached through it. */
SEC("socket")
int addressed_read(void *ctx)
{
	return *(volatile const char *)&_stext;
}

extern void bpf_rcu_read_lock(void) KSYM WEAK;

SEC("socket")
int present(void *ctx)
{
	return bpf_rcu_read_lock ? 1 : 0;
}

SEC("socket")
int present_read(void *ctx)
{
	return *(volatile char *)bpf_rcu_read_lock;
}

struct rq {
	long any; /* only that it is a struct is compared */
};
extern const struct rq runqueues KSYM;
extern const int cpu_number KSYM;

static void *(*const per_cpu_ptr)(const void *variable, u32 cpu) = (void *)153;
static void *(*const this_cpu_ptr)(const void *variable) = (void *)154;

SEC("socket")
int per_cpu(void *ctx)
{
	const int *own = this_cpu_ptr(&cpu_number);
	const int *first = per_cpu_ptr(&cpu_number, 0);

	return *own - (first ? *first : 0) + (this_cpu_ptr(&runqueues) != 0);
}

SEC("socket")
int per_cpu_unchecked(void *ctx)
{
	return *(const int *)per_cpu_ptr(&cpu_number, 1);
}

SEC("socket")
int per_cpu_written(void *ctx)
{
	*(int *)this_cpu_ptr(&cpu_number) = 1;
	return 0;
}

SEC("socket")
int per_cpu_beyond(void *ctx)
{
	return ((const int *)this_cpu_ptr(&cpu_number))[1];
}

SEC("socket")
int per_cpu_itself(void *ctx)
{
	return *(volatile int *)&cpu_number;
}
