/* SPDX-License-Identifier: MIT */
/* The programs of ringloops.c as BPF requests; user_data points to what they are to do. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define MOST_DEPTH 32
#define BLOCK 4096

struct job {
    u32 depth, left; /* requests at a time, requests to do */
    u64 buffer, size, at; /* of a copy: its size, and how far it is */
    u32 block;
    s32 from, to, started; /* from < 0: NOPs */
    u64 bad; /* CQEs that were not as they should be */
};

ARRAY_OF(jobs, struct job, 1, 0);

inline_always void check(struct io_uring_bpf_ctx *ctx, struct job *job, s32 wanted)
{
    struct io_uring_cqe cqe;

#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST_DEPTH; turn++) {
        if (turn >= job->depth)
            break;
        if (reap(ctx, 1, &cqe) || cqe.res != wanted)
            job->bad++;
    }
}

RING_PROG(requests)
{
    struct io_uring_sqe sqe = {};
    u32 zero = 0, depth;
    struct job *job = map_lookup(&jobs, &zero);

    if (!job)
        return finish(ctx);
    if (job->started)
        check(ctx, job, job->from < 0 ? 0 : BLOCK);
    job->started = 1;
    depth = job->depth;
    if (job->left < depth)
        return finish(ctx);
    job->left -= depth;
    if (job->from >= 0) {
        sqe.opcode = OP_READ;
        sqe.fd = job->from;
        sqe.addr = job->buffer;
        sqe.len = BLOCK;
    }
    sqe.cq_idx = 1;
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST_DEPTH; turn++) {
        if (turn >= depth)
            break;
        sqe.user_data = turn;
        if (submit(ctx, &sqe) != 1)
            job->bad++;
        sqe.addr += sqe.len;
    }
    return wait_for(ctx, 1, depth);
}

RING_PROG(copy)
{
    struct io_uring_sqe sqe = {};
    u32 zero = 0, depth, block;
    struct job *job = map_lookup(&jobs, &zero);

    if (!job)
        return finish(ctx);
    depth = job->depth;
    block = job->block;
    if (job->started)
        check(ctx, job, block);
    if (job->started == 2)
        job->at += (u64)depth * block;
    if (job->at >= job->size)
        return finish(ctx);
    sqe.addr = job->buffer;
    sqe.off = job->at;
    sqe.len = block;
    sqe.cq_idx = 1;
    if (job->started == 1) {
        job->started = 2;
        sqe.opcode = OP_WRITE;
        sqe.fd = job->to;
    } else {
        job->started = 1;
        sqe.opcode = OP_READ;
        sqe.fd = job->from;
    }
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < MOST_DEPTH; turn++) {
        if (turn >= depth)
            break;
        sqe.user_data = turn;
        if (submit(ctx, &sqe) != 1)
            job->bad++;
        sqe.addr += block;
        sqe.off += block;
    }
    return wait_for(ctx, 1, depth);
}
