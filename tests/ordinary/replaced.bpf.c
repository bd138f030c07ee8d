/* SPDX-License-Identifier: MIT */
/* xdp: functions that programs of replacing.bpf.c take the place of. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct weights {
    u64 first;
    u32 second;
};

u32 calls;

noinline int policy(struct xdp_md *ctx, int length)
{
    calls++;
    return length + ctx->ingress_ifindex;
}

noinline int weigh(struct weights *weights)
{
    return weights ? weights->first + weights->second : 0;
}

noinline u64 next(u64 number)
{
    return *(volatile u64 *)&number + 1;
}

/* It moves the packet, so what replaces it may, too. */
noinline int trim(struct xdp_md *ctx)
{
    return xdp_adjust_head(ctx, 1);
}

noinline static int hidden(int number)
{
    return *(volatile int *)&number;
}

SEC("xdp")
int judge(struct xdp_md *ctx)
{
    struct weights weights = {.first = 100, .second = 20};

    return policy(ctx, 1) + weigh(&weights) + next(1000) + hidden(ctx->ingress_ifindex);
}

/* The same function in a second program. */
SEC("xdp")
int another(struct xdp_md *ctx)
{
    return policy(ctx, 5);
}

SEC("xdp")
int shorten(struct xdp_md *ctx)
{
    return trim(ctx);
}

/* Its prototype is none of an xdp program. */
SEC("xdp")
int odd(void)
{
    return XDP_PASS;
}

/* Its result is 0 or 1, and so is that of what replaces a function of it. */
noinline int allow(struct __sk_buff *skb)
{
    return skb->len > 100;
}

SEC("cgroup/skb")
int gate(struct __sk_buff *skb)
{
    return allow(skb) ? 1 : 0;
}
