// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* An arena as clang and libbpf have it: variables in it, lists of pointers, pages that a program
   makes, and global functions that take pointers into it, rightly and wrongly. */
typedef unsigned int u32;
typedef unsigned long long u64;
#define SEC(n) __attribute__((section(n), used))
#define NOINLINE __attribute__((noinline))
#define ARENA __attribute__((address_space(1)))
#define IN_ARENA ARENA SEC(".addr_space.1")
#define TAKES_ARENA __attribute__((btf_decl_tag("arg:arena")))
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct node { struct node ARENA *next; u64 value; };
struct {
	u32 (*type)[33]; /* BPF_MAP_TYPE_ARENA */
	u32 (*map_flags)[1024]; /* BPF_F_MMAPABLE */
	u32 (*max_entries)[16];
} pages SEC(".maps");
char LICENSE[] SEC("license") = "GPL";

u64 IN_ARENA total = 7; /* in .addr_space.1 */
struct node ARENA *IN_ARENA first;

void ARENA *bpf_arena_alloc_pages(void *map, void ARENA *addr, u32 count, int node, u64 flags)
	SEC(".ksyms");
void bpf_arena_free_pages(void *map, void ARENA *at, u32 count) SEC(".ksyms");

NOINLINE int sum(struct node ARENA *one TAKES_ARENA)
{
	u64 found = 0;
	for (int i = 0; one && i < 100; i++, one = one->next)
		found += one->value;
	return (u32)found & 1;
}
NOINLINE int untagged(struct node *one) { return one ? (u32)one->value & 1 : 0; }

SEC("xdp") int counts(struct xdp_md *ctx) { return ++total & 1; }
SEC("xdp") int walks(struct xdp_md *ctx) { return sum(first); }
SEC("xdp") int passes_a_number(struct xdp_md *ctx)
{
	total = 0;
	return sum((struct node ARENA *)(u64)ctx->rx_queue_index);
}
SEC("xdp") int passes_stack(struct xdp_md *ctx)
{
	struct node here = { 0, total };
	return sum((struct node ARENA *)&here);
}
SEC("xdp") int passes_the_context(struct xdp_md *ctx)
{
	total = 0;
	int (*taken)(void *) = (int (*)(void *))sum;
	return taken(ctx);
}
SEC("xdp") int into_untagged(struct xdp_md *ctx)
{
	return untagged((struct node *)first);
}
SEC("syscall") int makes(void *ctx)
{
	struct node ARENA *one = bpf_arena_alloc_pages(&pages, 0, 1, -1, 0);
	if (!one)
		return 1;
	one->value = 5;
	one->next = first;
	first = one;
	return 0;
}
SEC("syscall") int gives_back(void *ctx)
{
	struct node ARENA *one = first;
	first = 0;
	bpf_arena_free_pages(&pages, one, 1);
	return 0;
}
