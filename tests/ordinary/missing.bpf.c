/* SPDX-License-Identifier: MIT */
/* What is not run: a helper that this version does not have, a type that it does not know. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

SEC("xdp")
int shrink(struct xdp_md *ctx)
{
    return xdp_adjust_head(ctx, 4) ? XDP_DROP : XDP_PASS;
}

SEC("fentry/do_nothing")
int entered(u64 *args)
{
    return args[0];
}

SEC("xdp")
int past_the_end(struct xdp_md *ctx)
{
    u8 *end = (void *)(long)ctx->data_end;

    return *end;
}

SEC("tc")
int no_data_meta_store(struct __sk_buff *skb)
{
    skb->len = 4;
    return TC_OK;
}

SEC("cgroup_skb/egress")
int writes(struct __sk_buff *skb)
{
    *(volatile u8 *)(long)skb->data = 1;
    return 1;
}
