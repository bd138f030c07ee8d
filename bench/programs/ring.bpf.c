/* SPDX-License-Identifier: MIT */
/* A ring program: a table of connections, completions reaped in a loop, requests submitted. */
#include "iouring_bpf.h"

LICENSE("Dual MIT/GPL");

#define CONNECTIONS 16
#define BATCH 8

struct connection {
    u64 bytes, rounds;
    u32 fd, state, errors, pad;
};

struct request {
    u32 first, count;
    u64 buffer;
};

ARRAY_OF(connections, struct connection, CONNECTIONS, 0);
ARRAY_OF(totals, u64, 4, 0);

RING_PROG(serve)
{
    struct request request;
    u32 handled = 0;

    if (copy_from_user(&request, sizeof(request), (void *)ctx->user_data))
        return finish(ctx);
    if (request.count > BATCH)
        return finish(ctx);
#pragma clang loop unroll(disable)
    for (u32 turn = 0; turn < BATCH; turn++) {
        struct io_uring_cqe cqe;
        struct connection *connection;
        u32 index;

        if (turn >= request.count)
            break;
        if (reap(ctx, 1, &cqe))
            break;
        index = cqe.user_data & (CONNECTIONS - 1);
        connection = map_lookup(&connections, &index);
        if (!connection)
            break;
        if (cqe.res < 0) {
            connection->errors++;
            if (connection->errors > 3)
                connection->state = 3;
            continue;
        }
        connection->bytes += cqe.res;
        connection->rounds++;
        if (connection->state == 0)
            connection->state = 1;
        else if (connection->state == 1 && cqe.res == 0)
            connection->state = 2;
        handled++;
        emit(ctx, 0, cqe.user_data, cqe.res, 0);
    }
    u32 key = handled & 3;
    u64 *total = map_lookup(&totals, &key);

    if (total)
        *total += handled;
    if (handled == request.count)
        return finish(ctx);
    return wait_for(ctx, 1, 1);
}
