/* SPDX-License-Identifier: MIT */
/* A socket filter: LD_ABS and LD_IND through LLVM's builtins, which expect the context in r6. */
#include "ordinary.h"

LICENSE("Dual MIT/GPL");

u64 load_byte(void *skb, u64 at) asm("llvm.bpf.load.byte");
u64 load_half(void *skb, u64 at) asm("llvm.bpf.load.half");
u64 load_word(void *skb, u64 at) asm("llvm.bpf.load.word");

#define FROM_NETWORK_HEADER -0x100000

u32 runs;
u64 sum;
s64 answers[4];

SEC("socket")
int filter(struct __sk_buff *skb)
{
    u8 bytes[16];

    runs++;
    sum = sum * 3 + skb->len;
    answers[0] = skb_load_bytes(skb, 0, bytes, sizeof(bytes));
    sum += bytes[0] + bytes[15];
    answers[1] = skb_load_bytes(skb, skb->len - 15, bytes, sizeof(bytes));
    sum += bytes[0] + bytes[15];
    sum += load_byte(skb, 0) & 0xf;
    sum += load_half(skb, 2);
    sum += load_word(skb, FROM_NETWORK_HEADER + 4);
    sum += load_byte(skb, load_byte(skb, 1) & 31); /* may end the program here, with 0 */
    sum += skb->protocol;
    runs += 100;
    return sum;
}
