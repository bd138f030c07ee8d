/* SPDX-License-Identifier: MIT */
/* What the programs of this folder share: types, contexts (linux/bpf.h), maps and helpers. */
#ifndef ORDINARY_H
#define ORDINARY_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define inline_always static inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define LICENSE(text) char license_text[] SEC("license") = text

/* The members of a .maps definition: pointers to arrays and types say numbers and types. */
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) type *name

#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_PROG_ARRAY 3
#define MAP_PERCPU_ARRAY 6

struct xdp_md {
    u32 data, data_end, data_meta;
    u32 ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol;
    u32 vlan_present, vlan_tci, vlan_proto, priority;
    u32 ingress_ifindex, ifindex, tc_index;
    u32 cb[5];
    u32 hash, tc_classid, data, data_end;
};

#define XDP_DROP 1
#define XDP_PASS 2
#define TC_OK 0
#define TC_SHOT 2

#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)

struct ethernet {
    u8 to[6], from[6];
    u16 type;
};

struct ipv4 {
    u8 version_words, tos;
    u16 length, id, fragment;
    u8 ttl, protocol;
    u16 check;
    u32 from, to;
};

static void *(*map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*map_update_elem)(void *map, const void *key, const void *value, u64 flags) =
    (void *)2;
static long (*map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*skb_store_bytes)(void *ctx, u32 at, const void *from, u32 size, u64 flags) =
    (void *)9;
static long (*l3_csum_replace)(void *ctx, u32 at, u64 from, u64 to, u64 flags) = (void *)10;
static long (*l4_csum_replace)(void *ctx, u32 at, u64 from, u64 to, u64 flags) = (void *)11;
static long (*tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*skb_load_bytes)(const void *ctx, u32 at, void *to, u32 size) = (void *)26;
static s64 (*csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) =
    (void *)28;
static long (*skb_pull_data)(void *ctx, u32 size) = (void *)39;
static long (*xdp_adjust_head)(void *ctx, int delta) = (void *)44;
static long (*for_each_map_elem)(void *map, void *function, void *ctx, u64 flags) = (void *)164;
static long (*loop)(u32 count, void *function, void *ctx, u64 flags) = (void *)181;
static long (*strncmp)(const char *one, u32 size, const char *other) = (void *)182;
static u64 (*xdp_get_buff_len)(void *ctx) = (void *)188;
static long (*xdp_load_bytes)(void *ctx, u32 at, void *to, u32 size) = (void *)189;
static long (*xdp_store_bytes)(void *ctx, u32 at, const void *from, u32 size) = (void *)190;

#endif
