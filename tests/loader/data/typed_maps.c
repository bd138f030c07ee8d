// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Maps declared by their types: plain, with extra, maps of maps, program array. */
#include "bpf.h"

struct key {
	u16 port;
	u16 zero;
	u32 addr;
};
typedef struct key key_type;
typedef const volatile u64 value_type;

struct {
	__uint(type, HASH);
	__uint(max_entries, 100);
	__uint(map_flags, 1);
	__type(key, key_type);
	__type(value, value_type);
} flows SEC(".maps");

struct {
	__uint(type, RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, BLOOM_FILTER);
	__uint(max_entries, 10);
	__uint(value_size, 4);
	__uint(map_extra, 3);
} seen SEC(".maps");

struct inner {
	__uint(type, ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, 5);
};
struct inner first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, struct inner);
} by_index SEC(".maps") = { .values = { [1] = &first, [3] = &second } };

struct {
	__uint(type, HASH_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, u32);
	__array(values, struct {
		__uint(type, ARRAY);
		__uint(max_entries, 1);
		__type(key, u32);
		__type(value, u32);
	});
} by_name SEC(".maps");

int next(void *ctx);

struct {
	__uint(type, PROG_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, 4);
	__array(values, int(void *));
} chain SEC(".maps") = { .values = { [2] = (void *)&next } };

SEC("socket")
int look(void *ctx)
{
	struct key key = { 1, 0, 2 };
	u32 zero = 0, index = 1;
	void *inner = lookup(&by_index, &index);
	u64 *value = lookup(&flows, &key);

	if (value && *value)
		tail_call(ctx, &chain, 2);
	if (inner && lookup(inner, &zero))
		return 1;
	return lookup(&by_name, &zero) != 0;
}

SEC("socket")
int next(void *ctx)
{
	return 7;
}
