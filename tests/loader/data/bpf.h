/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the sources beside this file share; nothing from libbpf is needed. */
#pragma once

#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))
#define __uint(name, value) int(*name)[value]
#define __type(name, type) typeof(type) *name
#define __array(name, type) typeof(type) *name[]

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

enum { HASH = 1, ARRAY = 2, PROG_ARRAY = 3, ARRAY_OF_MAPS = 12, HASH_OF_MAPS = 13, RINGBUF = 27 };
enum { BLOOM_FILTER = 30 };

static void *(*const lookup)(void *map, const void *key) = (void *)1;
static long (*const update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*const loop)(u32 rounds, void *callback, void *ctx, u64 flags) = (void *)181;

char LICENSE[] SEC("license") = "Dual MIT/GPL";
