/* SPDX-License-Identifier: MIT */
/* XDP: headers parsed with bounds checks, counters by protocol, a global subprogram. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct {
    NUMBER(type, MAP_PERCPU_ARRAY);
    NUMBER(max_entries, 4);
    TYPE(key, u32);
    TYPE(value, u64);
} kinds SEC(".maps");

struct flow {
    u32 from, to;
};

struct tally {
    u64 packets, bytes;
};

struct {
    NUMBER(type, MAP_HASH);
    NUMBER(max_entries, 64);
    TYPE(key, struct flow);
    TYPE(value, struct tally);
} flows SEC(".maps");

volatile const u32 blocked_protocol = 17;
u32 limit = 900;
u64 seen, seen_bytes;
u32 shortest = 100000;

/* A global function: kernels verify it by itself, for any argument. */
noinline u32 scale(u32 value, u32 by)
{
    return value * by + (value >> 3);
}

inline_always void count(u32 kind)
{
    u64 *found = map_lookup_elem(&kinds, &kind);

    if (found)
        *found += 1;
}

SEC("xdp")
int parse(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethernet *frame = data;
    u32 size = end - data;

    __sync_fetch_and_add(&seen, 1);
    __sync_fetch_and_add(&seen_bytes, size);
    if (size < shortest)
        shortest = size;
    if ((void *)(frame + 1) > end)
        return XDP_DROP;
    if (frame->type != be16(0x0800)) {
        count(0);
        return scale(size, 3);
    }
    struct ipv4 *header = (void *)(frame + 1);

    if ((void *)(header + 1) > end) {
        count(1);
        return XDP_DROP;
    }
    count(header->protocol == blocked_protocol ? 2 : 3);

    struct flow flow = { header->from & be32(0xf), header->to & be32(0x3) };
    struct tally *tally = map_lookup_elem(&flows, &flow);
    if (tally) {
        tally->packets++;
        tally->bytes += size;
    } else {
        struct tally first = { 1, size };

        map_update_elem(&flows, &flow, &first, 0);
    }
    if (header->protocol == blocked_protocol || size > limit)
        return XDP_DROP;

    /* Turn the packet around, as a reflector does. */
    u8 swap[6];
    __builtin_memcpy(swap, frame->to, 6);
    __builtin_memcpy(frame->to, frame->from, 6);
    __builtin_memcpy(frame->from, swap, 6);
    header->ttl--;
    return XDP_PASS + scale(header->ttl, ctx->ingress_ifindex);
}

/* The same bytes through helpers, and what those say at the packet's end. */
SEC("xdp.frags")
int copy(struct xdp_md *ctx)
{
    u64 size = xdp_get_buff_len(ctx);
    u8 bytes[8] = { 0 };
    s32 answers = 0;

    for (u32 at = 0; at < 4; at++) {
        answers = answers * 31 + (s32)xdp_load_bytes(ctx, size - 2 * at, bytes, sizeof(bytes));
        answers = answers * 31 + (s32)xdp_store_bytes(ctx, 3 * at, bytes, sizeof(bytes));
    }
    answers = answers * 31 + (s32)xdp_load_bytes(ctx, 70000, bytes, sizeof(bytes));
    answers = answers * 31 + (s32)xdp_store_bytes(ctx, size - 8, &size, sizeof(size));
    return answers ^ bytes[1];
}
