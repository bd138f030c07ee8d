/* SPDX-License-Identifier: MIT */
/* What two objects that are linked into one have in common, by the rules of libbpf's static linker. */
#pragma once
#include "io_uring_loop.h"

#define NOINLINE __attribute__((noinline))
#define HIDDEN __attribute__((visibility("hidden")))
#define __kconfig __attribute__((section(".kconfig")))

static void *(*const map_lookup_elem)(void *map, const void *key) = (void *)1;

struct array {
	int (*type)[2];
	int (*max_entries)[4];
	u32 *key;
	u64 *value;
};

/* Both ask for it. Functions of the kernel are asked for by one of them: libbpf before 1.2 links no
   two objects that name the same one. */
extern int CONFIG_HZ __kconfig __weak;

INLINE void put(void *map, u32 at, u64 number)
{
	u64 *slot = map_lookup_elem(map, &at);

	if (slot)
		*slot = number;
}

INLINE u64 at(void *map, u32 at)
{
	u64 *slot = map_lookup_elem(map, &at);

	return slot ? *slot : 0;
}
