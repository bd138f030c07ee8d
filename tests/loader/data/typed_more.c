// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Map attributes that older libbpf does not take, or would act upon: pinning, 64-bit extra. */
#include "bpf.h"

struct {
	__uint(type, HASH);
	__uint(max_entries, 100);
	__uint(pinning, 1);
	__type(key, u32);
	__type(value, u64);
} pinned SEC(".maps");

struct {
	__uint(type, BLOOM_FILTER);
	__uint(max_entries, 10);
	__uint(value_size, 4);
	enum { extra = 0x123456789ULL } map_extra;
} seen SEC(".maps");

static struct {
	__uint(type, ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, u64);
} unexported SEC(".maps");

SEC("socket")
int look(void *ctx)
{
	u32 key = 1;

	return lookup(&pinned, &key) != 0 || lookup(&unexported, &key) != 0;
}
