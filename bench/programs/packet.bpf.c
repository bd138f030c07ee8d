/* SPDX-License-Identifier: MIT */
/* XDP: headers walked in bounded loops: stacked VLAN tags, IPv6 extensions, TCP options. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

#define MAX_TAGS 3
#define MAX_EXTENSIONS 4
#define MAX_OPTIONS 9

struct flow {
    u32 from[4], to[4];
    u16 sport, dport;
    u8 protocol, tags, scale, window_known;
};

struct tally {
    u64 packets, bytes, options;
};

struct {
    NUMBER(type, MAP_HASH);
    NUMBER(max_entries, 1024);
    TYPE(key, struct flow);
    TYPE(value, struct tally);
} flows SEC(".maps");

struct {
    NUMBER(type, MAP_PERCPU_ARRAY);
    NUMBER(max_entries, 8);
    TYPE(key, u32);
    TYPE(value, u64);
} reasons SEC(".maps");

struct vlan {
    u16 tag, type;
};

struct ipv6 {
    u32 version_class_flow;
    u16 length;
    u8 next, hops;
    u32 from[4], to[4];
};

struct extension {
    u8 next, words;
    u16 rest;
    u32 more;
};

struct tcp {
    u16 from, to;
    u32 seq, ack;
    u8 offset, flags;
    u16 window, check, urgent;
};

inline_always int reason(u32 why)
{
    u64 *found = map_lookup_elem(&reasons, &why);

    if (found)
        *found += 1;
    return why < 4 ? XDP_DROP : XDP_PASS;
}

/* Options of TCP, byte by byte: what a stack does to find the window's scale. */
inline_always u32 options(struct tcp *tcp, void *end, struct flow *flow)
{
    u8 *at = (u8 *)(tcp + 1);
    u8 *last = (u8 *)tcp + ((tcp->offset >> 4) << 2);
    u32 seen = 0;

    for (int turn = 0; turn < MAX_OPTIONS; turn++) {
        if (at >= last || (void *)(at + 1) > end)
            break;
        u8 kind = *at;

        if (kind == 0)
            break;
        if (kind == 1) {
            at++;
            continue;
        }
        if ((void *)(at + 3) > end)
            break;
        u8 size = at[1];

        if (size < 2)
            break;
        if (kind == 3) {
            flow->scale = at[2];
            flow->window_known = 1;
        }
        seen++;
        at += size & 0x3f;
    }
    return seen;
}

SEC("xdp")
int walk(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethernet *frame = data;
    struct flow flow = { 0 };
    void *at = frame + 1;
    u32 seen = 0;

    if (at > end)
        return reason(0);
    u16 type = frame->type;

#pragma clang loop unroll(disable)
    for (int turn = 0; turn < MAX_TAGS; turn++) {
        struct vlan *vlan = at;

        if (type != be16(0x8100) && type != be16(0x88a8))
            break;
        if ((void *)(vlan + 1) > end)
            return reason(1);
        type = vlan->type;
        flow.tags++;
        at = vlan + 1;
    }
    if (type == be16(0x0800)) {
        struct ipv4 *ip = at;

        if ((void *)(ip + 1) > end)
            return reason(1);
        u32 size = (ip->version_words & 15) * 4;

        if (size < sizeof(*ip))
            return reason(2);
        flow.from[0] = ip->from;
        flow.to[0] = ip->to;
        flow.protocol = ip->protocol;
        at += size;
    } else if (type == be16(0x86dd)) {
        struct ipv6 *ip = at;

        if ((void *)(ip + 1) > end)
            return reason(1);
        __builtin_memcpy(flow.from, ip->from, 16);
        __builtin_memcpy(flow.to, ip->to, 16);
        u8 next = ip->next;

        at = ip + 1;
#pragma clang loop unroll(disable)
        for (int turn = 0; turn < MAX_EXTENSIONS; turn++) {
            struct extension *extension = at;

            if (next != 0 && next != 43 && next != 60 && next != 44)
                break;
            if ((void *)(extension + 1) > end)
                return reason(1);
            u32 words = next == 44 ? 0 : extension->words & 31;

            next = extension->next;
            at += 8 + words * 8;
        }
        flow.protocol = next;
    } else {
        return reason(4);
    }
    if (flow.protocol == 6) {
        struct tcp *tcp = at;

        if ((void *)(tcp + 1) > end)
            return reason(3);
        flow.sport = tcp->from;
        flow.dport = tcp->to;
        seen = options(tcp, end, &flow);
    } else if (flow.protocol == 17) {
        u16 *ports = at;

        if ((void *)(ports + 4) > end)
            return reason(3);
        flow.sport = ports[0];
        flow.dport = ports[1];
    }
    struct tally *tally = map_lookup_elem(&flows, &flow);

    if (tally) {
        tally->packets++;
        tally->bytes += end - data;
        tally->options += seen;
    } else {
        struct tally first = { 1, end - data, seen };

        map_update_elem(&flows, &flow, &first, 0);
    }
    return reason(5);
}
