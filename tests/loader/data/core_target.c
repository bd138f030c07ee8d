// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* The other version of the types in core.c: fields moved, widened, nested, gone. Only its BTF
 * is used. */
#include "bpf.h"

struct inner {
	u8 new_one;
	u32 a;
	u32 c;
	u16 b;
};

struct thing {
	u64 first;
	int before;
	u32 narrow;
	u8 more[24];
	s64 wide;
	u8 array[16];
	struct inner inners[5];
	struct {
		u32 deep;
		union {
			u32 inside;
			u64 either;
		};
	};
	unsigned flag : 3;
	int pad : 9;
	int small : 13;
	void *pointer;
};

struct forms {
	const char *name;
	long added;
	int count[4];
	struct inner *link;
};

typedef u64 number;
typedef int callback(u32, struct inner *);
enum colour { GREEN = 50, RED = 1, BLUE = -70, WHITE = 4 };
enum big { OTHER = 1, HUGE_ONE = 0x9876543210ULL };

struct thing thing;
struct forms forms;
number number_;
callback *callback_;
enum colour colour;
enum big big;
