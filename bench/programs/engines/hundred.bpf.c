/* SPDX-License-Identifier: MIT */
/* A hundred instructions, for the time that a whole command takes to load and run them. */
#include "speed.h"

LICENSE("Dual MIT/GPL");

ENTRY int hundred(struct run *run)
{
    u64 state = run->state + 1;

#pragma clang loop unroll(full)
    for (u32 at = 1; at <= 6; at++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state *= 0x2545f491 + at;
        if (state & at)
            run->turns += at;
    }
    run->state = state;
    return 0;
}
