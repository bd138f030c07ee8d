// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* What the kernel would have to provide: a function, a variable, a configuration value. */
#include "bpf.h"

#define IN(name) __attribute__((section(name), weak))

extern int kernel_function(u32 x) IN(".ksyms");
extern const int kernel_variable IN(".ksyms");
extern int CONFIG_HZ IN(".kconfig");

SEC("socket")
int calls(void *ctx)
{
	return kernel_function(1);
}

SEC("socket")
int reads(void *ctx)
{
	return CONFIG_HZ + (&kernel_variable != 0);
}

SEC("socket")
int alone(void *ctx)
{
	return 3;
}
