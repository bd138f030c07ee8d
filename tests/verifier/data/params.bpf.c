// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Global functions that take memory and the context; each program calls one rightly or wrongly. */
typedef unsigned int u32;
typedef unsigned long long u64;
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct pair { u32 a, b; };
#define SEC(n) __attribute__((section(n), used))
#define NOINLINE __attribute__((noinline))
#define NONNULL __attribute__((btf_decl_tag("arg:nonnull")))
char LICENSE[] SEC("license") = "GPL";
NOINLINE int sum(struct pair *p) { return p ? p->a + p->b : 0; }
NOINLINE int unchecked(struct pair *p) { return p->a; }
NOINLINE int beyond(struct pair *p) { return p ? *((u32 *)p + 2) : 0; }
NOINLINE int tagged(struct pair *p NONNULL) { p->b = 1; return p->a; }
NOINLINE int last_of(u32 (*p)[4]) { return p ? (*p)[3] : 0; }
NOINLINE int behind(u32 (*p)[4]) { return p ? *((u32 *)p + 4) : 0; }
NOINLINE int is_set(void **p) { return p ? *p != 0 : 0; }
NOINLINE int context(struct xdp_md *ctx) { return ctx->rx_queue_index; }
SEC("xdp") int fits(struct xdp_md *ctx) { struct pair p = {1, 2}; return sum(&p) & 1; }
SEC("xdp") int null(struct xdp_md *ctx) { return sum(0) & 1; }
SEC("xdp") int no_check(struct xdp_md *ctx) { struct pair p = {1, 2}; return unchecked(&p) & 1; }
SEC("xdp") int too_far(struct xdp_md *ctx) { struct pair p = {1, 2}; return beyond(&p) & 1; }
SEC("xdp") int small(struct xdp_md *ctx) { u32 a = 1; return sum((struct pair *)&a) & 1; }
SEC("xdp") int never_null(struct xdp_md *ctx) { struct pair p = {1, 2}; return tagged(&p) & 1; }
SEC("xdp") int null_to_nonnull(struct xdp_md *ctx) { return tagged(0) & 1; }
SEC("xdp") int number(struct xdp_md *ctx) { return sum((struct pair *)(long)ctx->data_meta) & 1; }
SEC("xdp") int array(struct xdp_md *ctx) { u32 a[4] = {1}; return last_of(&a) & 1; }
SEC("xdp") int array_too_far(struct xdp_md *ctx) { u32 a[8] = {1}; return behind((void *)&a) & 1; }
SEC("xdp") int array_small(struct xdp_md *ctx) { u64 a = 1; return last_of((void *)&a) & 1; }
SEC("xdp") int pointer(struct xdp_md *ctx) { u64 a = 1; return is_set((void *)&a) & 1; }
SEC("xdp") int with_ctx(struct xdp_md *ctx) { return context(ctx) & 1; }
SEC("xdp") int not_ctx(struct xdp_md *ctx) { struct xdp_md m = {}; return context(&m) & 1; }
