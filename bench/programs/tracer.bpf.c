/* SPDX-License-Identifier: MIT */
/* A tracer: many maps, records on the stack, histograms of two sizes, events to a ring buffer. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

#define MAP_RINGBUF 27
#define SLOTS 64

static u64 (*ktime_get_ns)(void) = (void *)5;
static u64 (*get_current_pid_tgid)(void) = (void *)14;
static long (*get_current_comm)(void *to, u32 size) = (void *)16;
static void *(*ringbuf_reserve)(void *map, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *record, u64 flags) = (void *)132;

struct histogram {
    u64 slots[SLOTS];
};

struct start {
    u64 at;
    u32 depth, kind;
};

struct event {
    u64 at, took;
    u32 pid, tgid;
    char comm[16];
};

struct {
    NUMBER(type, MAP_HASH);
    NUMBER(max_entries, 4096);
    TYPE(key, u32);
    TYPE(value, struct start);
} started SEC(".maps");

struct {
    NUMBER(type, MAP_HASH);
    NUMBER(max_entries, 256);
    TYPE(key, u32);
    TYPE(value, struct histogram);
} latencies SEC(".maps");

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 16);
    TYPE(key, u32);
    TYPE(value, struct histogram);
} kinds SEC(".maps");

struct {
    NUMBER(type, MAP_PERCPU_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, struct histogram);
} scratch SEC(".maps");

struct {
    NUMBER(type, MAP_RINGBUF);
    NUMBER(max_entries, 65536);
} events SEC(".maps");

volatile const u64 slow_ns = 1000000;
volatile const u32 only_tgid = 0;
u64 lost, seen;

inline_always u32 log2_of(u64 number)
{
    u32 slot = 0;

#pragma clang loop unroll(full)
    for (int shift = 5; shift >= 0; shift--) {
        if (number >> (1 << shift)) {
            number >>= 1 << shift;
            slot += 1 << shift;
        }
    }
    return slot;
}

inline_always void add(struct histogram *histogram, u64 number)
{
    u32 slot = log2_of(number);

    if (slot < SLOTS)
        __sync_fetch_and_add(&histogram->slots[slot], 1);
}

/* The sum of a histogram's slots, smoothed: a loop over a map value. */
static noinline u64 total(struct histogram *histogram)
{
    u64 sum = 0, last = 0;

    if (!histogram)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 slot = 0; slot < SLOTS; slot++) {
        u64 now = histogram->slots[slot];

        if (now > last)
            sum += now - last;
        else
            sum += 1;
        last = now;
    }
    return sum;
}

SEC("raw_tracepoint/sys_enter")
int enter(void *ctx)
{
    u64 both = get_current_pid_tgid();
    u32 pid = both, tgid = both >> 32;
    struct start now = { ktime_get_ns(), 0, pid & 15 };
    struct start *old;

    if (only_tgid && tgid != only_tgid)
        return 0;
    old = map_lookup_elem(&started, &pid);
    if (old) {
        now.depth = old->depth + 1;
        if (now.depth > 8)
            map_delete_elem(&started, &pid);
    }
    map_update_elem(&started, &pid, &now, 0);
    return 0;
}

SEC("raw_tracepoint/sys_exit")
int leave(void *ctx)
{
    u64 both = get_current_pid_tgid(), took;
    u32 pid = both, tgid = both >> 32, zero = 0, kind;
    struct histogram *one, *other, *mine;
    struct start *start;
    struct event *event;

    start = map_lookup_elem(&started, &pid);
    if (!start)
        return 0;
    took = ktime_get_ns() - start->at;
    kind = start->kind & 15;
    seen++;
    one = map_lookup_elem(&latencies, &tgid);
    if (!one) {
        mine = map_lookup_elem(&scratch, &zero);
        if (!mine)
            return 0;
        map_update_elem(&latencies, &tgid, mine, 0);
        one = map_lookup_elem(&latencies, &tgid);
    }
    if (one)
        add(one, took);
    other = map_lookup_elem(&kinds, &kind);
    if (other) {
        add(other, took / 1000);
        if (total(other) > 1000 && one && total(one) > total(other))
            lost++;
    }
    map_delete_elem(&started, &pid);
    if (took < slow_ns)
        return 0;
    event = ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event) {
        lost++;
        return 0;
    }
    event->at = ktime_get_ns();
    event->took = took;
    event->pid = pid;
    event->tgid = tgid;
    get_current_comm(event->comm, sizeof(event->comm));
    ringbuf_submit(event, 0);
    return 0;
}
