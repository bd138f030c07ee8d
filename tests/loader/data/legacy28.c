// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Records of seven words: a map of maps names its pattern by number. */
#include "bpf.h"

struct bpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags, inner_map_idx, numa_node;
};

struct bpf_map_def SEC("maps") pattern = { ARRAY, 4, 8, 4, 0, 0, 0 };
struct bpf_map_def SEC("maps") outer = { ARRAY_OF_MAPS, 4, 4, 2, 0, 0, 0 };

SEC("socket")
int look(void *ctx)
{
	u32 key = 0;
	void *inner = lookup(&outer, &key);

	if (!inner)
		return 1;
	return lookup(inner, &key) != 0;
}
