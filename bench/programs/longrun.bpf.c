/* SPDX-License-Identifier: MIT */
/* One long run: a sum in the frame and one in a map, whose turns the mark of the packet says. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u64);
} sums SEC(".maps");

SEC("tc/long")
int longrun(struct __sk_buff *ctx)
{
    volatile u64 own = 0;
    u32 key = 0, turns = ctx->mark;
    u64 *sum = map_lookup_elem(&sums, &key);

    if (!sum)
        return TC_OK;
    for (u32 turn = 0; turn < turns; turn++) {
        own += turn;
        if (!(turn & 0xffff))
            *sum += own;
    }
    return TC_OK;
}
