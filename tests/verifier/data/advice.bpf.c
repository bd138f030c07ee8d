// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Refused programs whose way out is to be told in the words of the C source. */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct cell { u8 bytes[64]; };
struct counted { u64 n; };
#define SEC(n) __attribute__((section(n), used))
#define NOINLINE __attribute__((noinline))
char LICENSE[] SEC("license") = "GPL";
struct {
    int (*type)[1];
    u32 *key;
    struct cell *value;
    int (*max_entries)[1];
} cells SEC(".maps");
static void *(*lookup)(void *, const void *) = (void *)1;
static u32 (*random)(void) = (void *)7;
static int (*adjust)(void *, int) = (void *)44;
static long (*loop)(u32, void *, void *, u64) = (void *)181;

NOINLINE int low(int n)
{
    return n & 127;
}

NOINLINE int shift(struct xdp_md *ctx, int by)
{
    return adjust(ctx, by);
}

static int more(u32 turn, struct counted *counted)
{
    counted->n++;
    return counted->n > 5;
}

SEC("xdp") int too_high(struct xdp_md *ctx)
{
    u32 key = 0;
    struct cell *cell = lookup(&cells, &key);
    if (!cell)
        return 0;
    u32 at = low(random());
    if (at > 80)
        return 0;
    return cell->bytes[at];
}

SEC("xdp") int in_callback(struct xdp_md *ctx)
{
    u32 key = 0;
    struct counted counted = {};
    struct cell *cell = lookup(&cells, &key);
    if (!cell)
        return 0;
    loop(100, more, &counted, 0);
    return cell->bytes[counted.n];
}

SEC("xdp") int moved(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 20 > end)
        return 0;
    shift(ctx, 4);
    return data[3];
}

SEC("xdp") int unchecked(struct xdp_md *ctx)
{
    u32 key = 0;
    u8 *byte = lookup(&cells, &key);
    return byte[3];
}

SEC("xdp") int nameless(struct xdp_md *ctx)
{
    u32 key = 0;
    return ((struct cell *)lookup(&cells, &key))->bytes[1];
}

SEC("xdp") int short_check(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    u8 *at = data + (random() & 0xfff);
    if (at + 8 > end)
        return 0;
    return at[8];
}

SEC("xdp") int loop_check(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    u8 *at = data + (random() & 0xfff);
    if (at + 8 > end)
        return 0;
    u32 sum = 0;
    for (int i = 0; i < 9; i++)
        sum += at[i];
    return sum;
}

SEC("xdp") int added_here(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    u32 by = random() & 0xfff;
    if (data + 8 > end)
        return 0;
    return data[by];
}
