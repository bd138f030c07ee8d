/* SPDX-License-Identifier: MIT */
/* freplace: a struct of the same name as in replaced.bpf.c, and larger. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

struct weights {
    u64 first;
    u32 second;
    u64 third;
};

SEC("freplace/weigh") int no_larger(struct weights *weights)
{
    return weights ? weights->third : 0;
}
