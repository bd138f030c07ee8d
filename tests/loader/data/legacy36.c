// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Records of nine words: inner maps say by an id which outer map holds them, and where. */
#include "bpf.h"

struct bpf_elf_map {
	u32 type, size_key, size_value, max_elem, flags, id, pinning, inner_id, inner_idx;
};

struct bpf_elf_map SEC("maps") inner = { ARRAY, 4, 8, 4, 0, 42, 0, 0, 1 };
struct bpf_elf_map SEC("maps") outer = { ARRAY_OF_MAPS, 4, 4, 2, 0, 0, 2, 42, 0 };

SEC("socket")
int look(void *ctx)
{
	u32 key = 1;

	return lookup(&outer, &key) != 0 || lookup(&inner, &key) != 0;
}
