/* SPDX-License-Identifier: MIT */
/* What makes one C source three things: BPF for engines, BPF for a kernel (IN_KERNEL), native code
 * (NATIVE). `PROGRAM(name)` makes the entry `name` of the function `name_turn`.
 *
 * An entry runs its turns in a plain loop. No kernel's verifier walks such a loop to its end, so
 * there bpf_loop calls the turn back; turns are long enough that the difference does not show. */
#ifndef SPEED_H
#define SPEED_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define inline_always static inline __attribute__((always_inline))
#define SUBPROG static __attribute__((noinline))

/* The context: `zero` is 0, which no compiler may know. */
struct run {
    u64 turns, state, zero;
};

#define TEXT_BYTES 4096

/* Nothing known of memory before is known behind it, so no turn is computed once for all. */
#define forget() asm volatile("" ::: "memory")

#ifdef NATIVE
#define EXPORT __attribute__((visibility("default")))
#define ENTRY EXPORT
u64 trivial_helper(void);
#else
#define EXPORT
#define ENTRY __attribute__((section("syscall"), used))
#define LICENSE(text) char license_text[] __attribute__((section("license"), used)) = text
static u64 (*const trivial_helper)(void) = (void *)14; /* bpf_get_current_pid_tgid */
static long (*const bpf_loop)(u32 count, void *function, void *ctx, u64 flags) = (void *)181;
#endif

#ifdef IN_KERNEL
#define PROGRAM(name)                                                                              \
    static int name##_step(u64 index, u64 *held)                                                   \
    {                                                                                              \
        held[0] = name##_turn(held[0], held[1]);                                                   \
        return 0;                                                                                  \
    }                                                                                              \
    ENTRY int name(struct run *run)                                                                \
    {                                                                                              \
        u64 held[2] = {run->state, run->zero};                                                     \
        bpf_loop(run->turns, name##_step, held, 0);                                                \
        run->state = held[0];                                                                      \
        return 0;                                                                                  \
    }
#else
#define PROGRAM(name)                                                                              \
    ENTRY int name(struct run *run)                                                                \
    {                                                                                              \
        u64 state = run->state, zero = run->zero;                                                  \
        for (u64 left = run->turns; left; left--)                                                  \
            state = name##_turn(state, zero);                                                      \
        run->state = state;                                                                        \
        return 0;                                                                                  \
    }
#endif

#endif
