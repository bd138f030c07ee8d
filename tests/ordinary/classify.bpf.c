/* SPDX-License-Identifier: MIT */
/* tc: bytes changed directly and by helpers, checksums kept, a tail call through an array. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

int next_program(struct __sk_buff *skb);
int last_program(struct __sk_buff *skb);

struct {
    NUMBER(type, MAP_PROG_ARRAY);
    NUMBER(max_entries, 3);
    TYPE(key, u32);
    int (*values[3])(struct __sk_buff *);
} chain SEC(".maps") = {
    .values = { [0] = next_program, [2] = last_program },
};

struct record {
    s64 answer;
    u32 len, protocol, pkt_type, ifindex, ingress_ifindex, mark;
};

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 16);
    TYPE(key, u32);
    TYPE(value, struct record);
} records SEC(".maps");

inline_always void note(struct __sk_buff *skb, u32 slot, s64 answer)
{
    struct record *record = map_lookup_elem(&records, &slot);

    if (!record)
        return;
    record->answer = answer;
    record->len = skb->len;
    record->protocol = skb->protocol;
    record->pkt_type = skb->pkt_type;
    record->ifindex = skb->ifindex;
    record->ingress_ifindex = skb->ingress_ifindex;
    record->mark = skb->mark;
}

SEC("tc")
int rewrite(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethernet *frame = data;
    struct ipv4 *header = (void *)(frame + 1);
    u32 patch = 0x01020304;

    skb->mark = 0x1234;
    skb->cb[1] = skb->len;
    note(skb, 0, 0);
    if ((void *)(header + 1) > end)
        return TC_SHOT;
    u16 old = *(u16 *)&header->ttl;
    u32 from = header->from;

    header->ttl += 5;
    frame->to[0] ^= 0xff;
    u16 new = *(u16 *)&header->ttl;
    note(skb, 1, l3_csum_replace(skb, 24, old, new, 2));
    note(skb, 2, l3_csum_replace(skb, 24, from, patch, 4));
    note(skb, 3, skb_store_bytes(skb, 26, &patch, 4, 1));
    note(skb, 4, skb_store_bytes(skb, skb->len - 2, &patch, 4, 0));
    note(skb, 5, skb_store_bytes(skb, 0, &patch, 4, 16));
    note(skb, 6, skb_load_bytes(skb, skb->len - 4, &patch, 4));
    note(skb, 7, patch);
    note(skb, 8, l4_csum_replace(skb, 32, from, patch, 0x10 | 4));
    note(skb, 9, l4_csum_replace(skb, 30, from, patch, 0x20 | 2));
    note(skb, 10, l3_csum_replace(skb, 25, from, patch, 4));
    note(skb, 11, l4_csum_replace(skb, 32, 0, csum_diff(&from, 4, &patch, 4, 0), 0x20));
    note(skb, 12, skb_pull_data(skb, skb->len) * 100 + skb_pull_data(skb, skb->len + 1));
    tail_call(skb, &chain, 0);
    return TC_SHOT;
}

SEC("tc")
int next_program(struct __sk_buff *skb)
{
    note(skb, 13, skb->cb[1]);
    tail_call(skb, &chain, 1); /* empty: goes on here */
    tail_call(skb, &chain, 3); /* outside */
    tail_call(skb, &chain, 2);
    return TC_SHOT;
}

SEC("tcx/ingress")
int last_program(struct __sk_buff *skb)
{
    note(skb, 14, 1);
    return skb->mark + skb->cb[1];
}

/* cgroup programs see the packet from its network header on, and may not change it. */
SEC("cgroup_skb/ingress")
int look(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ipv4 *header = data;

    note(skb, 15, end - data);
    if ((void *)(header + 1) > end)
        return 0;
    return header->protocol & 1;
}
