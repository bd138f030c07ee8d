/* SPDX-License-Identifier: MIT */
/* Arithmetic: a hash unrolled, a sort of a small array on the stack, a filter of many tests. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

#define NUMBERS 16

struct sample {
    u32 values[NUMBERS];
    u64 digest;
};

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 8);
    TYPE(key, u32);
    TYPE(value, struct sample);
} samples SEC(".maps");

inline_always u32 rotated(u32 word, u32 by)
{
    return word << by | word >> (32 - by);
}

SEC("tc/digest")
int digest(struct __sk_buff *ctx)
{
    u32 key = ctx->mark & 7, a = 0x9e3779b9, b = ctx->len, c = ctx->hash;
    struct sample *sample = map_lookup_elem(&samples, &key);

    if (!sample)
        return TC_OK;
#pragma clang loop unroll(full)
    for (u32 at = 0; at < NUMBERS; at++) {
        a += sample->values[at];
        a ^= rotated(c, 4);
        c += b;
        b ^= rotated(a, 6);
        a += c;
        c ^= rotated(b, 8);
        b += a;
        if (sample->values[at] & 1)
            a -= 0x1234;
    }
    sample->digest = (u64)a << 32 | (b ^ c);
    return TC_OK;
}

/* Insertion sort; indexes into the stack that only the loops bound. */
SEC("tc/median")
int median(struct __sk_buff *ctx)
{
    u32 key = 1, sorted[8];
    struct sample *sample = map_lookup_elem(&samples, &key);

    if (!sample)
        return TC_OK;
    for (u32 at = 0; at < 8; at++)
        sorted[at] = sample->values[at];
#pragma clang loop unroll(disable)
    for (u32 from = 1; from < 8; from++) {
        u32 moving = sorted[from & 7], at = from;

#pragma clang loop unroll(disable)
        for (u32 turn = 0; turn < 8; turn++) {
            if (at == 0 || at > 7 || sorted[(at - 1) & 7] <= moving)
                break;
            sorted[at & 7] = sorted[(at - 1) & 7];
            at--;
        }
        sorted[at & 7] = moving;
    }
    return sorted[4] > 100 ? TC_SHOT : TC_OK;
}

/* A filter as rule compilers make them: twenty tests, each of which may end it. */
SEC("socket/filter")
int filter(struct __sk_buff *ctx)
{
    u32 score = 0, mark = ctx->mark, priority = ctx->priority, hash = ctx->hash;

#define TEST(field, low, high, points)                                                            \
    if (field >= low && field < high)                                                             \
        score += points;                                                                          \
    else if (field == high + 7)                                                                   \
        return 0;
    TEST(mark, 10, 20, 1)
    TEST(priority, 5, 9, 2)
    TEST(hash, 1000, 5000, 3)
    TEST(ctx->len, 60, 1500, 4)
    TEST(ctx->cb[0], 3, 30, 5)
    TEST(ctx->cb[1], 4, 40, 6)
    TEST(ctx->cb[2], 5, 50, 7)
    TEST(ctx->cb[3], 6, 60, 8)
    TEST(ctx->ifindex, 1, 16, 9)
    TEST(ctx->queue_mapping, 0, 8, 10)
    TEST(ctx->protocol, 8, 1544, 11)
    TEST(ctx->vlan_tci, 1, 4095, 12)
    return score > 20;
}
