// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Calls that libbpf refuses and this loader takes: static functions outside .text, reached from
 * their own and from another section; a program as another one's function; one name twice. */
#include "bpf.h"

struct __sk_buff { /* its name makes it the context of a socket filter */
	u32 len;
};

static volatile u64 factor = 5;

static NOINLINE SEC("socket/a") u32 beside(u32 x)
{
	return x * 7 + factor;
}

SEC("socket/a") NOINLINE
int first(struct __sk_buff *ctx)
{
	return beside(ctx->len);
}

SEC("socket/b")
int second(struct __sk_buff *ctx)
{
	return beside(3) + first(ctx);
}

/* Only .text calls this one: what it is called with comes from a table of constants. */
static NOINLINE u32 lonely(u32 x)
{
	return x - factor;
}

NOINLINE u32 chain(u32 x)
{
	return x ? lonely(x) : beside(x);
}

SEC("socket/b")
int third(void *ctx)
{
	return chain(4);
}
