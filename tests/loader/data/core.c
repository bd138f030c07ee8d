// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Every kind of CO-RE relocation, against types of which the test makes another version. */
#include "bpf.h"

#define CORE __attribute__((preserve_access_index))
#define FIELD(f, what) __builtin_preserve_field_info(f, what)
enum { OFFSET, SIZE, EXISTS, SIGNED, LSHIFT, RSHIFT };
#define TYPE_ID(t, what) __builtin_btf_type_id(*(t *)0, what)
#define TYPE_INFO(t, what) __builtin_preserve_type_info(*(t *)0, what)
#define VALUE(t, v, what) __builtin_preserve_enum_value(*(typeof(t) *)v, what)

struct inner {
	u32 a;
	u16 b;
} CORE;

struct thing {
	u32 first;
	s64 wide;
	u16 narrow;
	u8 array[8];
	struct inner inners[3];
	union {
		u32 inside;
		u64 either;
	};
	int small : 5;
	u32 flag : 1;
	u32 gone;
	u64 *pointer;
} CORE;

struct thing___other {
	int renamed;
} CORE;

struct missing {
	int x;
} CORE;

struct forms {
	const char *name;
	int count[4];
	struct inner *link;
} CORE;

typedef u32 number;
typedef int callback(u32, struct inner *);
enum colour { RED, GREEN = 5, BLUE = -7, PINK = 3 };
enum big { HUGE_ONE = 0x1234567890ULL, OTHER = 1 };

u64 out[64];

SEC("socket/fields")
int fields(void *ctx)
{
	struct thing *t = (void *)out;
	struct thing___other *o = (void *)out;

	out[0] = FIELD(t->wide, OFFSET);
	out[1] = FIELD(t->narrow, SIZE);
	out[2] = FIELD(t->gone, EXISTS);
	out[3] = FIELD(t->narrow, EXISTS);
	out[4] = FIELD(t->wide, SIGNED);
	out[5] = FIELD(t->narrow, SIGNED);
	out[6] = FIELD(t->small, OFFSET);
	out[7] = FIELD(t->small, SIZE);
	out[8] = FIELD(t->small, LSHIFT);
	out[9] = FIELD(t->small, RSHIFT);
	out[10] = FIELD(t->small, SIGNED);
	out[11] = FIELD(t->flag, LSHIFT);
	out[12] = FIELD(t->flag, RSHIFT);
	out[13] = FIELD(t->inners[2].b, OFFSET);
	out[14] = FIELD(t->array[5], OFFSET);
	out[15] = FIELD(t->inside, OFFSET);
	out[16] = FIELD(o->renamed, EXISTS);
	out[17] = FIELD(t->array, SIZE);
	out[18] = FIELD(t[2].narrow, OFFSET);
	out[19] = FIELD(t->pointer, SIZE);
	return 0;
}

SEC("socket/types")
int types(void *ctx)
{
	out[0] = TYPE_ID(struct thing, 0) != 0;
	out[1] = TYPE_ID(struct thing, 1);
	out[2] = TYPE_INFO(struct thing, 0);
	out[3] = TYPE_INFO(struct missing, 0);
	out[4] = TYPE_INFO(struct thing, 1);
	out[5] = TYPE_INFO(struct missing, 1);
	out[6] = TYPE_INFO(number, 0);
	out[7] = TYPE_INFO(callback, 0);
	out[8] = TYPE_INFO(struct inner, 2);
	out[9] = TYPE_INFO(struct thing, 2);
	out[10] = TYPE_INFO(struct forms, 2);
	out[11] = TYPE_INFO(enum colour, 2);
	out[12] = TYPE_INFO(callback, 2);
	out[13] = TYPE_ID(struct missing, 1);
	return 0;
}

SEC("socket/enums")
int enums(void *ctx)
{
	out[0] = VALUE(enum colour, RED, 0);
	out[1] = VALUE(enum colour, PINK, 0);
	out[2] = VALUE(enum colour, GREEN, 1);
	out[3] = VALUE(enum colour, BLUE, 1);
	out[4] = VALUE(enum big, HUGE_ONE, 1);
	out[5] = VALUE(enum big, OTHER, 0);
	return 0;
}

/* Loads and stores follow the field, and its width where that is safe. */
SEC("socket/accesses")
int accesses(void *ctx)
{
	struct thing *t = (void *)out;
	u64 sum = t->first;

	sum += t->narrow;
	sum += t->inners[1].a;
	sum += t->inside;
	t->first = 3;
	t->narrow = sum;
	return sum;
}

/* A field that the target does not have: only who reads it fails. */
SEC("socket/poison")
int poison(void *ctx)
{
	struct thing *t = (void *)out;

	if (FIELD(t->gone, EXISTS))
		return t->gone;
	return 1;
}
