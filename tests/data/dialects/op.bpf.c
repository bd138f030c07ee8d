// SPDX-License-Identifier: MIT
/* Programs that perform requests of IORING_OP_BPF: -DDIALECT=81, 82 or 83 for its versions. */
#include "dialect.h"

#if DIALECT == 81
#define PDU_WORDS 11
#else
#define PDU_WORDS 10
#endif

struct uring_bpf_data {
	void *req_data;
	void *ops;
	u32 opf;
#if DIALECT != 81
	u32 issue_flags;
#endif
	u32 pdu[PDU_WORDS];
};

struct uring_bpf_ops {
#if DIALECT == 81
	u8 id;
#else
	u16 id;
	s32 ring_fd;
#endif
	int (*prep)(struct uring_bpf_data *data, const struct sqe *sqe);
	int (*issue)(struct uring_bpf_data *data);
	void (*fail)(struct uring_bpf_data *data);
	void (*cleanup)(struct uring_bpf_data *data);
};

extern void uring_bpf_set_result(struct uring_bpf_data *data, int res) __ksym;

#define CALLBACK(name, what) \
	SEC("struct_ops/" #name "_" #what) int name##_##what(u64 *args)
#define VOID_CALLBACK(name, what) \
	SEC("struct_ops/" #name "_" #what) void name##_##what(u64 *args)
#define DATA ((struct uring_bpf_data *)args[0])
#define MAGIC 0xabba

u32 preps[2], issues[2], cleanups[2], fails;

/* Two operations alike: what prep keeps is what issue finds; each ends with 42. */
#define BASIC(number)                                            \
	CALLBACK(basic##number, prep)                            \
	{                                                        \
		preps[number]++;                                 \
		DATA->pdu[0] = MAGIC + number;                   \
		return 0;                                        \
	}                                                        \
	CALLBACK(basic##number, issue)                           \
	{                                                        \
		issues[number]++;                                \
		if (DATA->pdu[0] == MAGIC + number)              \
			uring_bpf_set_result(DATA, 42);          \
		return 0;                                        \
	}                                                        \
	VOID_CALLBACK(basic##number, cleanup)                    \
	{                                                        \
		cleanups[number]++;                              \
	}                                                        \
	SEC(".struct_ops.link") struct uring_bpf_ops basic##number = { \
		.id = number,                                    \
		.prep = (void *)basic##number##_prep,            \
		.issue = (void *)basic##number##_issue,          \
		.cleanup = (void *)basic##number##_cleanup,      \
	}
BASIC(0);
BASIC(1);

/* Answers what the host says, and counts; of the SQE it keeps what an answer may be made of. */
int prep_answer, issue_answer, result, sets_result;
u32 seen_opf, seen_opcode, ends;
u64 seen_user_data, order, turns;

CALLBACK(told, prep)
{
	const struct sqe *sqe = (const struct sqe *)args[1];

	seen_opcode = sqe->opcode;
	seen_user_data = sqe->user_data;
	seen_opf = DATA->opf;
	DATA->pdu[PDU_WORDS - 1] = (u32)sqe->addr;
	return prep_answer;
}
CALLBACK(told, issue)
{
	order = order * 10 + DATA->pdu[PDU_WORDS - 1];
	turns++;
	if (sets_result)
		uring_bpf_set_result(DATA, result);
	if (sets_result > 1)
		uring_bpf_set_result(DATA, 5);
	return issue_answer;
}
VOID_CALLBACK(told, fail)
{
	fails++;
}
VOID_CALLBACK(told, cleanup)
{
	ends++;
}
SEC(".struct_ops.link") struct uring_bpf_ops told = {
	.id = 7,
	.prep = (void *)told_prep,
	.issue = (void *)told_issue,
	.fail = (void *)told_fail,
	.cleanup = (void *)told_cleanup,
};

/* Ids that there are not, an id that another one has, nothing that performs. */
CALLBACK(bare, issue)
{
	return 0;
}
#if DIALECT != 81
SEC(".struct_ops.link") struct uring_bpf_ops beyond = { .id = 16, .issue = (void *)bare_issue };
#endif
SEC(".struct_ops.link") struct uring_bpf_ops again = { .id = 7, .issue = (void *)bare_issue };
SEC(".struct_ops.link") struct uring_bpf_ops idle = { .id = 9, .prep = (void *)told_prep };

#if DIALECT == 82
struct buffer {
	u8 type;
	u8 zero;
	u16 index;
	u32 len;
	u64 addr;
};
extern int uring_bpf_memcpy(struct uring_bpf_data *data, struct buffer *dst, struct buffer *src) __ksym;

struct buffer from, to;

CALLBACK(copies, issue)
{
	struct buffer source = from, target = to;

	uring_bpf_set_result(DATA, uring_bpf_memcpy(DATA, &target, &source));
	return 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops copies = { .id = 3, .issue = (void *)copies_issue };

/* Refused: half of a description. */
CALLBACK(no, buffer)
{
	u64 half = from.addr;

	return uring_bpf_memcpy(DATA, (struct buffer *)&half, (struct buffer *)&half);
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_buffer = { .id = 3, .issue = (void *)no_buffer };
#endif

/* Refused: outside what is the program's own, the SQE, a second argument; to sleep. */
CALLBACK(no, header)
{
	DATA->opf = 1;
	return 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_header = { .id = 3, .issue = (void *)no_header };

CALLBACK(no, beyond)
{
	*(volatile u32 *)((u8 *)DATA + 64) = 1;
	return 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_beyond = { .id = 3, .issue = (void *)no_beyond };

CALLBACK(no, entry)
{
	*(volatile u8 *)args[1] = 1;
	return 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_entry = {
	.id = 3,
	.prep = (void *)no_entry,
	.issue = (void *)bare_issue,
};

CALLBACK(no, second)
{
	return args[1] != 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_second = { .id = 3, .issue = (void *)no_second };

SEC("struct_ops.s/no_sleep") int no_sleep(u64 *args)
{
	return 0;
}
SEC(".struct_ops.link") struct uring_bpf_ops ops_no_sleep = { .id = 3, .issue = (void *)no_sleep };
