/* SPDX-License-Identifier: MIT */
/* Strings: a request line split into words, numbers read, a pattern with stars matched. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

#define LINE 256
#define PATTERN 12

struct line {
    char text[LINE];
    u32 size, words, numbers, commas;
    u64 value, hash;
    u8 starts[16];
};

struct {
    NUMBER(type, MAP_ARRAY);
    NUMBER(max_entries, 4);
    TYPE(key, u32);
    TYPE(value, struct line);
} lines SEC(".maps");

volatile const char pattern[PATTERN] = "GET /*.html";
u32 matches;

/* Words, numbers and a hash in one pass. */
SEC("socket/split")
int split(struct __sk_buff *ctx)
{
    u32 key = ctx->mark & 3, words = 0, numbers = 0, commas = 0;
    struct line *line = map_lookup_elem(&lines, &key);
    u64 hash = 14695981039346656037ull, value = 0;
    int inside = 0;

    if (!line)
        return 0;
    if (skb_load_bytes(ctx, 0, line->text, LINE))
        return 0;
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < 20; at++) {
        char c = line->text[at];

        if (!c)
            break;
        hash = (hash ^ (u8)c) * 1099511628211ull;
        if (c == ' ' || c == '\t') {
            inside = 0;
            continue;
        }
        if (!inside) {
            inside = 1;
            line->starts[words & 15] = at;
            words++;
        }
        if (c >= '0' && c <= '9') {
            value = value * 10 + (c - '0');
            numbers++;
        } else if (c == ',') {
            commas++;
        }
    }
    line->hash = hash;
    line->value = value;
    line->words = words;
    line->numbers = numbers;
    line->commas = commas;
    return words;
}

/* A pattern with stars; where it fails behind a star, on from there. */
SEC("socket/match")
int match(struct __sk_buff *ctx)
{
    u32 key = 0, p = 0, star = PATTERN, back = 0, at = 0;
    struct line *line = map_lookup_elem(&lines, &key);

    if (!line)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < 12; turn++) {
        if (at >= 8 || p >= PATTERN)
            break;
        char c = line->text[at & (LINE - 1)], want = pattern[p];

        if (want == '*') {
            star = p;
            back = at;
            p++;
        } else if (c == want) {
            p++;
            at++;
        } else if (star < PATTERN) {
            p = star + 1;
            at = ++back;
        } else {
            break;
        }
    }
    if (p == PATTERN - 1)
        matches++;
    return p;
}

/* A word on the stack, turned round and compared with itself. */
SEC("socket/mirror")
int mirror(struct __sk_buff *ctx)
{
    char word[16] = { 0 }, turned[16] = { 0 };
    u64 size = ctx->len;
    u32 same = 0;

    if (size > sizeof(word) || size == 0)
        return 0;
    if (skb_load_bytes(ctx, 0, word, size))
        return 0;
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < sizeof(word); at++) {
        if (at >= size)
            break;
        turned[(size - 1 - at) & 15] = word[at];
    }
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < sizeof(word); at++) {
        if (at >= size)
            break;
        if (turned[at] == word[at])
            same++;
    }
    return same == size;
}
