/* SPDX-License-Identifier: MIT */
/* The helper of native code: a file of its own, so that no compiler sees what it does. */
unsigned long long trivial_helper(void);

unsigned long long trivial_helper(void)
{
    return 1ULL << 32 | 1;
}
