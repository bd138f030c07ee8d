/* SPDX-License-Identifier: MIT */
/* Six programs that engines are timed with, each limited by something else. */
#include "speed.h"

#ifndef NATIVE
LICENSE("Dual MIT/GPL");
#endif

/* Filled by the host; `text` is words and numbers between single blanks. */
EXPORT u8 text[TEXT_BYTES] __attribute__((aligned(8)));
u64 copied[TEXT_BYTES / 8];

/* A: one chain of dependent arithmetic. */
inline_always u64 alu_turn(u64 state, u64 zero)
{
    for (u32 at = 0; at < 256; at++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state *= 0x2545f4914f6cdd1dULL;
    }
    return state;
}
PROGRAM(alu)

/* B: loads and stores, nothing to wait for. */
inline_always u64 copy_turn(u64 state, u64 zero)
{
    const u64 *from = (const u64 *)text;

    forget();
    for (u32 at = 0; at < TEXT_BYTES / 8; at++) {
        u64 word = from[at];
        copied[at] = word;
        state += word;
    }
    return state;
}
PROGRAM(copy)

/* C: FNV-1a, a multiplication behind each byte. */
inline_always u64 hash_turn(u64 state, u64 zero)
{
    forget();
    for (u32 at = 0; at < TEXT_BYTES; at++)
        state = (state ^ text[at]) * 0x100000001b3ULL;
    return state;
}
PROGRAM(hash)

/* D: a tokenizer of three states; counts words, adds up numbers. */
enum { BLANK, WORD, NUMBER };

inline_always u64 tokens_turn(u64 state, u64 zero)
{
    u32 mode = BLANK;
    u64 number = 0;

    forget();
    for (u32 at = 0; at < TEXT_BYTES; at++) {
        u8 byte = text[at];

        if (mode == BLANK) {
            if (byte >= '0' && byte <= '9') {
                number = byte - '0';
                mode = NUMBER;
            } else if (byte != ' ') {
                state++;
                mode = WORD;
            }
        } else if (mode == WORD) {
            if (byte == ' ')
                mode = BLANK;
        } else {
            if (byte >= '0' && byte <= '9') {
                number = number * 10 + byte - '0';
            } else {
                state += number;
                mode = byte == ' ' ? BLANK : WORD;
            }
        }
    }
    return state;
}
PROGRAM(tokens)

/* E: a tree of calls. Entry, callback and the six levels are the eight frames that kernels allow. */
SUBPROG u64 tree1(u64 value)
{
    return value * 3 + 1;
}
SUBPROG u64 tree2(u64 value)
{
    return (value ^ 0x55) + 2;
}
SUBPROG u64 tree3(u64 value)
{
    return tree2(value + 3) + tree1(value);
}
SUBPROG u64 tree4(u64 value)
{
    return tree3(value + 4) + tree2(value);
}
SUBPROG u64 tree5(u64 value)
{
    return tree4(value + 5) + tree3(value);
}
SUBPROG u64 tree6(u64 value)
{
    return tree5(value + 6) + tree4(value);
}
SUBPROG u64 tree7(u64 value)
{
    return tree6(value + 7) + tree5(value);
}

inline_always u64 calls_turn(u64 state, u64 zero)
{
    for (u32 at = 0; at < 16; at++)
        state += tree7(state + at);
    return state;
}
PROGRAM(calls)

/* F: a helper that does next to nothing, every seventh instruction. */
inline_always u64 helpers_turn(u64 state, u64 zero)
{
    for (u32 at = 0; at < 64; at++)
        state = (state ^ at) + (trivial_helper() & zero);
    return state;
}
PROGRAM(helpers)
