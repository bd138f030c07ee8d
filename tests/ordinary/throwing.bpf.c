/* SPDX-License-Identifier: MIT */
/* freplace: a program that may end with an exception, on kernels that have them. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

extern void bpf_throw(u64 cookie) __attribute__((section(".ksyms")));

SEC("freplace/policy") int un_throws(struct xdp_md *ctx, int length)
{
    if (length > 100)
        bpf_throw(1);
    return length;
}
