/* SPDX-License-Identifier: MIT */
/*
 * Programs that submit, wait and run again: what the native loop does must not differ from what
 * Python does. Parameters come from `args`, what was seen goes to `out`; out[0] counts runs.
 */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

HELPER(6, long, trace_printk, const char *fmt, u32 size, ...);
HELPER(112, long, probe_read_user, void *dst, u32 size, const void *user_src);

#define CQ_SINK 2
#define MOST 64

ARRAY_OF(args, u64, 8, 0);
ARRAY_OF(out, u64, 64, 0);

inline_always u64 arg(u32 index)
{
    u64 *value = slot(&args, index);

    return value ? *value : 0;
}

inline_always void set(u32 index, u64 value)
{
    u64 *place = slot(&out, index);

    if (place)
        *place = value;
}

inline_always u64 add(u32 index, u64 value)
{
    u64 *place = slot(&out, index);

    return place ? *place += value : 0;
}

inline_always void prep(struct io_uring_sqe *sqe, u8 opcode, u64 user_data, u16 cq)
{
    __builtin_memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->user_data = user_data;
    sqe->cq_idx = cq;
}

/* Reaps CQ `cq` until it is empty; what the CQEs say goes into a sum in out[index]. */
inline_always u32 reap_all(struct io_uring_bpf_ctx *ctx, u32 cq, u32 index)
{
    struct io_uring_cqe cqe;
    u32 count = 0;

#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST; turn++) {
        if (reap(ctx, cq, &cqe))
            break;
        count++;
        add(index, (cqe.user_data << 32) + (u32)cqe.res);
    }
    return count;
}

/* args: depth, rounds, cq. Some rounds of `depth` NOPs. */
RING_PROG(nops)
{
    u64 run = add(0, 1), depth = arg(0);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(1))
        return finish(ctx);
    prep(&sqe, OP_NOP, 0, arg(2));
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST; turn++) {
        if (turn >= depth)
            break;
        sqe.user_data = run * 100 + turn;
        add(3, submit(ctx, &sqe));
    }
    return wait_for(ctx, 1, arg(2) == 1 ? depth : 0);
}

/* args: fd in, fd out, buffer, block, blocks. One block after the other. */
RING_PROG(copy)
{
    u64 run = add(0, 1), bytes = arg(3);
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe = {};

    if (run > 1) {
        if (reap(ctx, 1, &cqe))
            return finish(ctx);
        set(1, cqe.res);
        if (cqe.res <= 0 || run > 2 * arg(4))
            return finish(ctx);
        if (run & 1)
            add(2, cqe.res);
    }
    prep(&sqe, run & 1 ? OP_READ : OP_WRITE, run, 1);
    sqe.fd = run & 1 ? arg(0) : arg(1);
    sqe.addr = arg(2);
    sqe.len = run & 1 ? bytes : cqe.res;
    sqe.off = ((run - 1) >> 1) * bytes;
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 1);
}

/* args: rounds, fill. Each round one NOP to CQ 1 and `fill` to a CQ that nobody reaps. */
RING_PROG(sink)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run, CQ_SINK);
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST; turn++) {
        if (turn >= arg(1))
            break;
        sqe.user_data = run * 100 + turn;
        submit(ctx, &sqe);
    }
    set(4, emit(ctx, CQ_SINK, run, -3, 7));
    sqe.cq_idx = 1;
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 1);
}

/* args: rounds. CQ 0 is filled, by NOPs and by hand, and goes over. */
RING_PROG(main_queue)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run * 10, 0);
    submit(ctx, &sqe);
    sqe.user_data++;
    submit(ctx, &sqe);
    add(3, emit(ctx, 0, run * 10 + 5, run, 0));
    sqe.cq_idx = 1;
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 1);
}

/* args: rounds. A chain, one left open at the end of the run, and lone requests in between. */
RING_PROG(chains)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run * 10, 1);
    submit(ctx, &sqe);
    sqe.flags = SQE_IO_LINK;
    sqe.user_data++;
    submit(ctx, &sqe);
    sqe.flags = 0;
    sqe.user_data++;
    submit(ctx, &sqe);
    add(3, reap(ctx, 1, &cqe));
    sqe.user_data++;
    submit(ctx, &sqe);
    sqe.flags = SQE_IO_HARDLINK;
    sqe.user_data++;
    submit(ctx, &sqe);
    add(3, reap(ctx, 1, &cqe));
    return wait_for(ctx, 1, 5);
}

/* args: rounds, timespec. What the loop does itself before and behind what it does not. */
RING_PROG(mixed)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe;

    add(1, reap_all(ctx, 1, 2));
    add(4, reap_all(ctx, CQ_SINK, 5));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run * 10, 1);
    submit(ctx, &sqe);
    prep(&sqe, OP_TIMEOUT, run * 10 + 1, CQ_SINK);
    sqe.addr = arg(1);
    sqe.len = 1;
    submit(ctx, &sqe);
    add(3, reap(ctx, 1, &cqe));
    prep(&sqe, OP_NOP, run * 10 + 2, 1);
    submit(ctx, &sqe);
    add(3, reap(ctx, 1, &cqe));
    if (run & 1)
        return wait_for(ctx, CQ_SINK, 1);
    return wait_for(ctx, 1, 2);
}

/* args: rounds, fd, buffer of 16 bytes. Requests have been made when memory is looked at. */
RING_PROG(same_buffer)
{
    u64 run = add(0, 1), word = run * 3, buffer = arg(2);
    struct io_uring_sqe sqe;

    opaque(buffer);
    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    copy_to_user((void *)buffer, &word, sizeof(word));
    prep(&sqe, OP_READ, 1, 1);
    sqe.fd = arg(1);
    sqe.addr = buffer;
    sqe.len = 8;
    sqe.off = run * 8;
    submit(ctx, &sqe);
    copy_from_user(&word, sizeof(word), (void *)buffer);
    add(6, word);
    sqe.addr += 8;
    submit(ctx, &sqe);
    word = run * 5;
    copy_to_user((void *)(buffer + 8), &word, sizeof(word));
    return wait_for(ctx, 1, 2);
}

/* args: rounds, fd, buffer, size. What is refused, or nearly. */
RING_PROG(refused)
{
    u64 run = add(0, 1), word = 7;
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe;
    u64 buffer = arg(2), size = arg(3);

    add(1, reap_all(ctx, 1, 2));
    add(4, reap_all(ctx, 0, 5));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run, 1);
    submit(ctx, &sqe);
    switch (run) {
    case 1:
        sqe.cq_idx = 77;
        break;
    case 2:
        sqe.opcode = 200;
        break;
    case 3:
        sqe.flags = 0x80;
        break;
    case 4:
        sqe.flags = 0x40; /* CQE_SKIP_SUCCESS in v3 */
        break;
    case 5:
        sqe.personality = 3;
        break;
    case 6:
        sqe.opcode = OP_READ;
        sqe.fd = 1;
        sqe.addr = buffer;
        sqe.len = 8;
        break;
    case 7:
        sqe.opcode = OP_READ;
        sqe.fd = arg(1);
        sqe.addr = buffer + size - 4;
        sqe.len = 8;
        break;
    case 8:
        sqe.opcode = OP_READ;
        sqe.fd = arg(1);
        sqe.addr = ~0ULL - 3;
        sqe.len = 8;
        break;
    case 9:
        sqe.opcode = OP_READ;
        sqe.fd = arg(1);
        sqe.addr = buffer;
        sqe.len = 8;
        sqe.off = 1ULL << 63;
        break;
    case 10:
        sqe.opcode = OP_READ;
        sqe.flags = SQE_FIXED_FILE;
        sqe.fd = 9;
        sqe.addr = buffer;
        sqe.len = 8;
        break;
    case 11:
        sqe.opcode = 4; /* READ_FIXED */
        sqe.fd = arg(1);
        sqe.addr = buffer;
        sqe.len = 8;
        break;
    case 12:
        sqe.pad3 = ~0ULL;
        break;
    default:
        sqe.opcode = OP_READ;
        sqe.fd = arg(1);
        sqe.addr = buffer + size;
        sqe.len = 0;
    }
    set(16 + run, submit(ctx, &sqe));
    add(6, emit(ctx, 9, 1, 1, 1));
    add(7, reap(ctx, 9, &cqe) + cqe.user_data);
    add(8, copy_from_user(&word, 8, (void *)(buffer + size - run)));
    add(9, word);
    add(10, copy_to_user((void *)(buffer + size - run), &run, 8));
#if IOURING_PROFILE == 2
    add(11, reap_bytes(ctx, 1, &cqe, 8));
    add(12, submit_bytes(ctx, &sqe, 63));
#endif
    return wait_for(ctx, 1, 1);
}

/* args: rounds, index of `guest`. Another program has its turn in between. */
RING_PROG(host)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, run, 1);
    submit(ctx, &sqe);
    if (run % 4 == 0) {
        prep(&sqe, OP_BPF, run, CQ_SINK);
        sqe.off = arg(1);
        submit(ctx, &sqe);
    }
    prep(&sqe, OP_NOP, run + 1000, 1);
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 2);
}

RING_PROG(guest)
{
    set(32 + (ctx->user_data & 31), arg(7) + add(0, 0));
    return finish(ctx);
}

/* args: rounds, most. More requests in a run than are held back. */
RING_PROG(many)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_NOP, 0, 1);
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST; turn++) {
        if (turn >= 34 + run)
            break;
        sqe.user_data = run * 100 + turn;
        submit(ctx, &sqe);
        if (turn == 33)
            set(8 + (run & 7), reap_all(ctx, 1, 3));
    }
    return wait_for(ctx, 1, 1);
}

/* args: moves. Waits for what is there already: a live-lock, after some moves. */
RING_PROG(stuck)
{
    u64 run = add(0, 1);
    struct io_uring_cqe cqe;

    if (run == 1)
        emit(ctx, 1, 1, 1, 0);
    if (run <= arg(0))
        emit(ctx, CQ_SINK, run, 0, 0);
    if (arg(1)) {
        emit(ctx, 1, 2, 2, 0);
        reap(ctx, 1, &cqe);
    }
    return wait_for(ctx, 1, 1);
}

/* args: nr, idx, rounds. Waits for what can not come, or for nothing. */
RING_PROG(waits)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    prep(&sqe, OP_NOP, run, 1);
    submit(ctx, &sqe);
    if (run < arg(2))
        return wait_for(ctx, 1, run);
    return wait_for(ctx, arg(1), arg(0));
}

/* args: rounds. Too many instructions in the last run. */
RING_PROG(spends)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    prep(&sqe, OP_NOP, run, 1);
    submit(ctx, &sqe);
    if (run > arg(0)) {
#pragma clang loop unroll(disable)
        for (u32 turn = 0; turn < 2000; turn++)
            opaque(turn);
    }
    return wait_for(ctx, 1, 1);
}

/* args: rounds, fd, buffer of 8 bytes. Reads the buffer while a request that fills it is pending. */
RING_PROG(peeks)
{
    u64 run = add(0, 1), word = 0;
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    prep(&sqe, OP_READ, run, 1);
    sqe.fd = arg(1);
    sqe.addr = arg(2);
    sqe.len = 8;
    sqe.off = run * 8;
    submit(ctx, &sqe);
    add(3, probe_read_user(&word, sizeof(word), (void *)arg(2)));
    set(8 + (run & 31), word);
    return wait_for(ctx, 1, 1);
}

#define SAY trace_printk(line, sizeof(line));
#define SAY_10 SAY SAY SAY SAY SAY SAY SAY SAY SAY SAY
#define SAY_90 SAY_10 SAY_10 SAY_10 SAY_10 SAY_10 SAY_10 SAY_10 SAY_10 SAY_10

/* args: rounds. Calls a helper of Python's from more places than an engine holds callees. */
RING_PROG(talks)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;
    char line[] = "hi";

    add(1, reap_all(ctx, 1, 2));
    if (run > arg(0))
        return finish(ctx);
    SAY_90 SAY_90 SAY_90
    prep(&sqe, OP_NOP, run, 1);
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 1);
}

/* args: fd, flags, opcode, buffer, rounds, when. One transfer of 8 bytes after the other; run `when`
 * posts to CQ 0. */
RING_PROG(transfers)
{
    u64 run = add(0, 1), word = 0;
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe = {};

    if (run > 1) {
        if (reap(ctx, 1, &cqe))
            return finish(ctx);
        set(1, cqe.res);
        set(2, copy_from_user(&word, sizeof(word), (void *)arg(3)));
        if (cqe.res <= 0 || run > arg(4))
            return finish(ctx);
    }
    if (run == arg(5))
        emit(ctx, 0, 5, 0, 0);
    prep(&sqe, arg(2), run, 1);
    sqe.fd = arg(0);
    sqe.flags = arg(1);
    sqe.addr = arg(3);
    sqe.len = 8;
    sqe.off = -1;
    submit(ctx, &sqe);
    return wait_for(ctx, 1, 1);
}

/* args: rounds, fd with data, fd without, buffer, when. Of two sockets; a RECV on the one without
 * data waits from the first run on, and run `when` cancels it. Some of the rest is Python's. */
RING_PROG(sockets)
{
    u64 run = add(0, 1);
    struct io_uring_sqe sqe;

    add(1, reap_all(ctx, 1, 2));
    add(3, reap_all(ctx, CQ_SINK, 4));
    if (run > arg(0))
        return finish(ctx);
    if (run == 1) {
        prep(&sqe, OP_RECV, 99, CQ_SINK);
        sqe.fd = arg(2);
        sqe.addr = arg(3) + 8;
        sqe.len = 8;
        submit(ctx, &sqe);
    }
    prep(&sqe, OP_RECV, run * 10, 1);
    sqe.fd = arg(1);
    sqe.addr = arg(3);
    sqe.len = 8;
    submit(ctx, &sqe);
    sqe.opcode = OP_SEND;
    sqe.user_data++;
    sqe.len = run & 7;
    submit(ctx, &sqe);
    sqe.user_data++;
    sqe.len = 2;
    if (run % 5 == 0)
        sqe.msg_flags = 0x40; /* MSG_DONTWAIT */
    else if (run % 5 == 1)
        sqe.ioprio = 1; /* RECVSEND_POLL_FIRST */
    else if (run % 5 == 2)
        sqe.addr = 4096;
    else if (run % 5 == 3)
        sqe.fd = 1;
    submit(ctx, &sqe);
    if (run == arg(4)) {
        prep(&sqe, OP_ASYNC_CANCEL, 500, CQ_SINK);
        sqe.addr = 99;
        submit(ctx, &sqe);
    }
    return wait_for(ctx, 1, 3);
}

enum what { END, SUBMIT, REAP, EMIT, WAIT };

struct step {
    u32 what;
    u32 cq;
    struct io_uring_sqe sqe;
};

ARRAY_OF(script, struct step, 256, 0);

/* Does what `script` says, step by step; what it saw, in order, goes into out[1]. */
RING_PROG(scripted)
{
    u64 at = add(2, 0), seen = add(1, 0);
    struct io_uring_sqe sqe;
    struct io_uring_cqe cqe;

    add(0, 1);
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST; turn++) {
        struct step *step = map_lookup(&script, &(u32){ at });

        if (!step || step->what == END)
            break;
        at++;
        seen *= 31;
        if (step->what == SUBMIT) {
            sqe = step->sqe;
            seen += submit(ctx, &sqe);
        } else if (step->what == REAP) {
            seen += reap(ctx, step->cq, &cqe);
            seen += cqe.user_data * 7 + (u32)cqe.res;
        } else if (step->what == EMIT) {
            seen += emit(ctx, step->cq, step->sqe.user_data, 5, 0);
        } else {
            set(1, seen);
            set(2, at);
            return wait_for(ctx, step->cq, step->sqe.len);
        }
    }
    set(1, seen);
    set(2, at);
    return finish(ctx);
}
