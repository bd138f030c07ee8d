/* SPDX-License-Identifier: MIT */
/* A raw tracepoint and a syscall program: globals, callbacks, atomics, without any packet. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct {
    NUMBER(type, MAP_HASH);
    NUMBER(max_entries, 32);
    TYPE(key, u32);
    TYPE(value, u64);
} numbers SEC(".maps");

volatile const u32 rounds = 24;
volatile const char name[8] = "counter";
u64 total = 7, exchanged = 5, swapped = 9, bits = 0xff00;
u64 visited, product = 1;
s64 compared[3];

struct sums {
    u64 even, odd;
};

static long add_one(u32 index, struct sums *sums)
{
    u32 key = index % 20;
    u64 value = index * 3 + 1;

    if (index & 1)
        sums->odd += index;
    else
        sums->even += index;
    map_update_elem(&numbers, &key, &value, 0);
    return index == 21;
}

static long visit(void *map, u32 *key, u64 *value, struct sums *sums)
{
    visited++;
    sums->even ^= *value * (*key + 1);
    *value += 1;
    return 0;
}

static noinline u64 power(u64 base, u32 times)
{
    u64 result = 1;

    for (u32 round = 0; round < 5; round++)
        if (round < times)
            result *= base;
    return result;
}

inline_always u64 all(u64 first, u64 second)
{
    struct sums sums = { first, second };
    u64 made = loop(rounds, add_one, &sums, 0);

    made += 100 * for_each_map_elem(&numbers, visit, &sums, 0);
    __sync_fetch_and_add(&total, sums.even);
    __sync_fetch_and_or(&bits, first & 0xf);
    __sync_fetch_and_and(&bits, 0xfff7);
    __sync_fetch_and_xor(&bits, second);
    product += __sync_lock_test_and_set(&exchanged, made);
    product += __sync_val_compare_and_swap(&swapped, 9, first);
    product += __sync_val_compare_and_swap(&swapped, 1, second);
    product *= power(first | 1, second & 7);
    return made + sums.odd;
}

SEC("raw_tp/any")
int traced(u64 *args)
{
    return all(args[0], args[1]);
}

SEC("syscall")
int called(u64 *args)
{
    char text[8];

    for (u32 at = 0; at < 8; at++)
        text[at] = args[2] >> 8 * at;
    compared[0] = strncmp(text, 8, "counter");
    compared[1] = strncmp(text, 3, "counter");
    compared[2] = strncmp(text, 8, "c");
    args[1] = all(args[0], args[1]);
    return compared[0] * 4 + compared[1] * 2 + compared[2];
}
