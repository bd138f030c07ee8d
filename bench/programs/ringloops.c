/* SPDX-License-Identifier: MIT */
/*
 * What a C programmer writes on liburing for the programs of ringloops.bpf.c: the same requests, the
 * same depth, no threads, no registered files.
 *
 *      ringloops nop DEPTH REQUESTS
 *      ringloops read DEPTH REQUESTS FILE
 *      ringloops copy DEPTH BLOCK FROM TO
 *
 * Runs one round for each line on stdin, and prints how many seconds it took.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

static void fail(const char *what, long result)
{
    fprintf(stderr, "%s: %ld\n", what, result);
    exit(1);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void take(struct io_uring *ring, unsigned count, int wanted)
{
    struct io_uring_cqe *cqe;

    while (count--) {
        int result = io_uring_wait_cqe(ring, &cqe);

        if (result || cqe->res != wanted)
            fail("CQE", result ? result : cqe->res);
        io_uring_cqe_seen(ring, cqe);
    }
}

static void requests(struct io_uring *ring, unsigned depth, unsigned count, int fd, char *buffer)
{
    for (; count; count -= depth) {
        for (unsigned turn = 0; turn < depth; turn++) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

            if (fd < 0)
                io_uring_prep_nop(sqe);
            else
                io_uring_prep_read(sqe, fd, buffer + turn * BLOCK, BLOCK, 0);
            io_uring_sqe_set_data64(sqe, turn);
        }
        io_uring_submit_and_wait(ring, depth);
        take(ring, depth, fd < 0 ? 0 : BLOCK);
    }
}

/* `depth` blocks at a time: read them, write them. */
static void copy(struct io_uring *ring, unsigned depth, unsigned block, int from, int to, char *buffer,
                 size_t size)
{
    for (size_t at = 0; at < size; at += (size_t)depth * block) {
        for (int writes = 0; writes < 2; writes++) {
            for (unsigned turn = 0; turn < depth; turn++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
                size_t off = at + (size_t)turn * block;

                if (writes)
                    io_uring_prep_write(sqe, to, buffer + (size_t)turn * block, block, off);
                else
                    io_uring_prep_read(sqe, from, buffer + (size_t)turn * block, block, off);
                io_uring_sqe_set_data64(sqe, turn);
            }
            io_uring_submit_and_wait(ring, depth);
            take(ring, depth, block);
        }
    }
}

int main(int argc, char **argv)
{
    struct io_uring ring;
    unsigned depth = argc > 3 ? atoi(argv[2]) : 0, count = argc > 3 ? atoi(argv[3]) : 0;
    int from = -1, to = -1, result;
    size_t size = 0;
    char *buffer, line[16];

    if (!depth || !count)
        fail("usage: ringloops nop|read|copy DEPTH COUNT [FROM [TO]]", argc);
    result = io_uring_queue_init(64, &ring, 0);
    if (result)
        fail("io_uring_queue_init", result);
    buffer = aligned_alloc(BLOCK, (size_t)depth * (argc > 5 ? count : BLOCK));
    memset(buffer, 1, (size_t)depth * (argc > 5 ? count : BLOCK));
    if (argc > 4) {
        from = open(argv[4], O_RDONLY);
        size = lseek(from, 0, SEEK_END);
    }
    if (argc > 5)
        to = open(argv[5], O_WRONLY);
    if (argc > 4 && (from < 0 || (argc > 5 && to < 0)))
        fail("open", from);
    while (fgets(line, sizeof(line), stdin)) {
        double start = now();

        if (argc > 5)
            copy(&ring, depth, count, from, to, buffer, size);
        else
            requests(&ring, depth, count, from, buffer);
        printf("%.9f\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
