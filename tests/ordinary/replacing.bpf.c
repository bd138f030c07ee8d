/* SPDX-License-Identifier: MIT */
/*
 * freplace: programs for functions of replaced.bpf.c. Names say which are accepted: `no_` is refused,
 * `ok_` its accepted twin, `un_` beyond what is decided here.
 */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct weights {
    u64 first;
    u32 second;
};

struct others {
    u64 first;
    u32 second;
};

u32 calls; /* as in replaced.bpf.c: another variable all the same */
const volatile u32 factor = 3;

noinline static int tripled(int number)
{
    return *(volatile int *)&number * factor;
}

SEC("freplace/policy") int ok_policy(struct xdp_md *ctx, int length)
{
    calls += 7;
    return tripled(length + ctx->rx_queue_index);
}

/* Results are told apart by their kind, not by their size or sign. */
SEC("freplace/policy") u64 ok_result(struct xdp_md *ctx, u32 length) { return length; }

SEC("freplace/policy") int no_args(struct xdp_md *ctx) { return 1; }
SEC("freplace/policy") int no_context(struct __sk_buff *ctx, int length) { return 1; }
SEC("freplace/policy") int no_size(struct xdp_md *ctx, u64 length) { return 1; }
SEC("freplace/policy") int no_kind(int ctx, int length) { return 1; }
SEC("freplace/policy") int no_field(struct xdp_md *ctx, int length)
{
    return *(volatile u32 *)((char *)ctx + 64);
}
SEC("freplace/policy") int no_pointer(struct xdp_md *ctx, int length)
{
    return *(volatile int *)(long)length;
}
SEC("freplace/policy") int no_move(struct xdp_md *ctx, int length) { return xdp_adjust_head(ctx, 1); }
SEC("freplace/trim") int ok_move(struct xdp_md *ctx) { return xdp_adjust_head(ctx, 2); }

SEC("freplace/weigh") int ok_weigh(struct weights *weights)
{
    return weights ? weights->first - weights->second : 0;
}
SEC("freplace/weigh") int no_null_check(struct weights *weights) { return weights->second; }
SEC("freplace/weigh") int no_name(struct others *weights) { return weights ? weights->second : 0; }
SEC("freplace/weigh") int no_number(u64 *weights) { return weights ? *weights : 0; }
SEC("freplace/weigh")
int no_trust(struct weights *weights __attribute__((btf_decl_tag("arg:nonnull"))))
{
    return weights->first;
}
SEC("freplace/next") u64 ok_next(u64 number) { return number + 2; }
SEC("freplace/hidden") int no_static(int number) { return number; }
SEC("freplace/weigh")
int no_tag(struct weights *weights __attribute__((btf_decl_tag("arg:ctx")))) { return 1; }
SEC("freplace/odd") int no_odd(void) { return 1; }
SEC("freplace/judge") int ok_judge(struct xdp_md *ctx) { return XDP_DROP; }
SEC("freplace/allow") int ok_allow(struct __sk_buff *skb) { return skb->len > 200; }
SEC("freplace/allow") int no_allow(struct __sk_buff *skb) { return 2; }
SEC("freplace/allow") int no_allow_packet(struct __sk_buff *skb)
{
    return *(volatile u8 *)(long)skb->data & 1;
}

struct {
    NUMBER(type, MAP_PROG_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u32);
} programs SEC(".maps");

SEC("freplace/policy") int un_tail_call(struct xdp_md *ctx, int length)
{
    tail_call(ctx, &programs, 0);
    return 1;
}
SEC("freplace/nothing") int un_nothing(struct xdp_md *ctx) { return 1; }
SEC("freplace") int un_named(struct xdp_md *ctx) { return 1; }
