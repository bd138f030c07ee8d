/* SPDX-License-Identifier: MIT */
/* The mistakes that people make, one a program: what `verify` says of them is tested. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 8);
    TYPE(key, u32);
    u64 (*value)[8];
} counts SEC(".maps");

const volatile u32 limit = 100;

SEC("xdp")
int no_null_check(struct xdp_md *ctx)
{
    u32 key = ctx->rx_queue_index;
    u64 *value = map_lookup_elem(&counts, &key);

    return value[0];
}

SEC("xdp")
int no_bound(struct xdp_md *ctx)
{
    u32 key = 0, at = ctx->rx_queue_index;
    u64 *value = map_lookup_elem(&counts, &key);

    if (!value)
        return XDP_PASS;
    return value[at];
}

SEC("xdp")
int no_packet_check(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data;

    return data[12];
}

SEC("xdp")
int depends(struct xdp_md *ctx)
{
    u32 key = 0, at = limit;
    u64 *value = map_lookup_elem(&counts, &key);

    if (!value)
        return XDP_PASS;
    return value[at];
}

SEC("xdp")
int two_errors(struct xdp_md *ctx)
{
    u32 key = ctx->rx_queue_index;
    u64 *value = map_lookup_elem(&counts, &key);
    u8 *data = (void *)(long)ctx->data;

    if (key & 1)
        return data[0];
    return value[0];
}

SEC("xdp")
int fine(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data;
    u8 *end = (void *)(long)ctx->data_end;

    return data + 1 > end ? XDP_PASS : data[0];
}

SEC("raw_tracepoint.unknown")
int other(void *ctx)
{
    return 0;
}
