// SPDX-License-Identifier: MIT
/* Members of the struct of callbacks: the kernel's own one, and one that it does not have. */
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

struct iou_ctx;
struct iou_loop_params;
struct io_uring_bpf_ops {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	u32 ring_fd;
	void *priv;
	u32 later;
};

char license_text[] SEC("license") = "Dual MIT/GPL";

SEC("struct_ops.s/stops") int stops(u64 *args)
{
	return 1;
}

#define OPS(name, ...) \
	SEC(".struct_ops.link") struct io_uring_bpf_ops name = { .loop_step = (void *)stops, __VA_ARGS__ }
OPS(plain);
OPS(own, .priv = (void *)1);
OPS(highest, .priv = (void *)0x0100000000000000);
OPS(unknown, .later = 1);
