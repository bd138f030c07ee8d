// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Maps as records of five words, two of them, used from one program. */
#include "bpf.h"

struct bpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags;
};

struct bpf_map_def SEC("maps") counts = { HASH, 4, 8, 16, 1 };
struct bpf_map_def SEC("maps") names = { ARRAY, 4, 32, 3, 0 };

SEC("socket")
int count(void *ctx)
{
	u32 key = 1;
	u64 *value = lookup(&counts, &key), one = 1;

	if (value)
		*value += 1;
	else
		update(&counts, &key, &one, 0);
	return lookup(&names, &key) != 0;
}
