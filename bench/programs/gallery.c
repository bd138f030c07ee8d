/* SPDX-License-Identifier: MIT */
/*
 * What a C programmer writes for programs of the gallery: on liburing, and without it.
 *
 *      gallery copy DEPTH FROM TO        blocks of 16 KiB on liburing; DEPTH 0: pread and pwrite
 *      gallery sum DEPTH FILE            blocks of SUM_BLOCK on liburing; DEPTH 0: pread
 *      gallery echo uring|epoll          a server; its port is the first line
 *      gallery tee uring|loop FROM TO... sends what a socket says to others
 *
 * Runs a round for each line on stdin, for the echo server the number of its clients. Prints
 * seconds, seconds of CPU, system calls, and the sum. And what servers are used by, at once:
 *
 *      gallery load PORT CLIENTS EACH       clients that send EACH messages of 64 bytes
 *      gallery spread BYTES EACH SOURCE SINK...   the other ends of tee's sockets, EACH bytes for
 *                                                 every sink
 *
 * They print seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define COPY_BLOCK 16384
#ifndef SUM_BLOCK
#define SUM_BLOCK 4096
#endif
#ifndef TEE_BLOCK
#define TEE_BLOCK 4096
#endif
#define SLOTS 1024
#define BUFFER 1024
#define MESSAGE 64
#define SINKS 16

enum kind { ACCEPTED, RECEIVED, SENT, CLOSED };

struct slot {
    int fd, next, writing;
    unsigned have, put, want;
    uint64_t at;
};

static struct io_uring ring;
static struct slot slots[SLOTS];
static char *buffers;
static long calls;

static void fail(const char *what, long result)
{
    fprintf(stderr, "%s: %ld\n", what, result);
    exit(1);
}

static double now(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static struct io_uring_sqe *next_sqe(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

    if (sqe)
        return sqe;
    io_uring_submit(&ring);
    calls++;
    return io_uring_get_sqe(&ring);
}

static void enter(void)
{
    int result = io_uring_submit_and_wait(&ring, 1);

    calls++;
    if (result < 0)
        fail("submit_and_wait", result);
}

/* --- copy and sum -------------------------------------------------------------------------- */

static uint64_t next_byte, size_bytes, total;
static unsigned in_flight;
static int from_fd, to_fd;

static void copy_step(unsigned index)
{
    struct slot *slot = &slots[index];
    char *buffer = buffers + (size_t)index * COPY_BLOCK;
    struct io_uring_sqe *sqe = next_sqe();

    if (slot->writing)
        io_uring_prep_write(sqe, to_fd, buffer + slot->put, slot->have - slot->put,
                            slot->at + slot->put);
    else
        io_uring_prep_read(sqe, from_fd, buffer + slot->have, slot->want - slot->have,
                           slot->at + slot->have);
    io_uring_sqe_set_data64(sqe, index);
    in_flight++;
}

static void copy_next(unsigned index)
{
    struct slot *slot = &slots[index];

    if (next_byte >= size_bytes)
        return;
    slot->at = next_byte;
    slot->want = size_bytes - next_byte < COPY_BLOCK ? size_bytes - next_byte : COPY_BLOCK;
    slot->have = slot->put = slot->writing = 0;
    next_byte += slot->want;
    copy_step(index);
}

static void copied(unsigned index, int res)
{
    struct slot *slot = &slots[index];

    if (res <= 0)
        fail("transfer", res);
    if (!slot->writing) {
        slot->have += res;
        slot->writing = slot->have == slot->want;
        copy_step(index);
    } else if ((slot->put += res) < slot->have) {
        copy_step(index);
    } else {
        copy_next(index);
    }
}

static void weigh(const char *buffer, uint64_t block)
{
    const uint64_t *words = (const uint64_t *)buffer;
    uint64_t weight = 2 * block * (SUM_BLOCK / 8) + 1;

    for (unsigned i = 0; i < SUM_BLOCK / 8; i++) {
        total += words[i] * weight;
        weight += 2;
    }
}

static void sum_next(unsigned index)
{
    struct io_uring_sqe *sqe;

    if (next_byte >= size_bytes)
        return;
    sqe = next_sqe();
    io_uring_prep_read(sqe, from_fd, buffers + (size_t)index * SUM_BLOCK, SUM_BLOCK, next_byte);
    io_uring_sqe_set_data64(sqe, index);
    slots[index].at = next_byte / SUM_BLOCK;
    next_byte += SUM_BLOCK;
    in_flight++;
}

static void summed(unsigned index, int res)
{
    if (res != SUM_BLOCK)
        fail("read", res);
    weigh(buffers + (size_t)index * SUM_BLOCK, slots[index].at);
    sum_next(index);
}

static void keep_depth(unsigned depth, void (*start)(unsigned), void (*done)(unsigned, int))
{
    next_byte = total = 0;
    for (unsigned index = 0; index < depth; index++)
        start(index);
    while (in_flight) {
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;

        enter();
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            seen++;
            in_flight--;
            done(cqe->user_data, cqe->res);
        }
        io_uring_cq_advance(&ring, seen);
    }
}

static void copy_loop(void)
{
    for (uint64_t at = 0; at < size_bytes;) {
        long got = pread(from_fd, buffers, COPY_BLOCK, at), put;

        calls++;
        if (got <= 0)
            fail("pread", got);
        for (long done = 0; done < got; done += put) {
            put = pwrite(to_fd, buffers + done, got - done, at + done);
            calls++;
            if (put <= 0)
                fail("pwrite", put);
        }
        at += got;
    }
}

static void sum_loop(void)
{
    total = 0;
    for (uint64_t at = 0; at < size_bytes; at += SUM_BLOCK) {
        calls++;
        if (pread(from_fd, buffers, SUM_BLOCK, at) != SUM_BLOCK)
            fail("pread", errno);
        weigh(buffers, at / SUM_BLOCK);
    }
}

/* --- echo ---------------------------------------------------------------------------------- */

static int listener, free_slot = -1, used;

static int take_slot(int fd)
{
    int index = free_slot;

    if (index >= 0)
        free_slot = slots[index].next;
    else if ((index = used++) >= SLOTS)
        fail("slots", index);
    slots[index].fd = fd;
    slots[index].have = slots[index].put = slots[index].writing = 0;
    return index;
}

static void give_slot(int index)
{
    slots[index].next = free_slot;
    free_slot = index;
}

static void move(unsigned kind, unsigned index)
{
    struct slot *slot = &slots[index];
    struct io_uring_sqe *sqe = next_sqe();
    char *buffer = buffers + (size_t)index * BUFFER;

    if (kind == RECEIVED)
        io_uring_prep_recv(sqe, slot->fd, buffer, BUFFER, 0);
    else if (kind == SENT)
        io_uring_prep_send(sqe, slot->fd, buffer + slot->put, slot->have - slot->put, 0);
    else if (kind == CLOSED)
        io_uring_prep_close(sqe, slot->fd);
    else
        io_uring_prep_accept(sqe, listener, NULL, NULL, 0);
    io_uring_sqe_set_data64(sqe, (uint64_t)index << 8 | kind);
}

static void echo_uring(long clients)
{
    long accepted = 0, served = 0;

    move(ACCEPTED, 0);
    while (served < clients) {
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;

        enter();
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            unsigned kind = cqe->user_data & 0xff, index = cqe->user_data >> 8;
            struct slot *slot = &slots[index];

            seen++;
            if (kind == ACCEPTED) {
                if (cqe->res < 0)
                    fail("accept", cqe->res);
                move(RECEIVED, take_slot(cqe->res));
                if (++accepted < clients)
                    move(ACCEPTED, 0);
            } else if (kind == CLOSED) {
                give_slot(index);
                served++;
            } else if (cqe->res <= 0) {
                move(CLOSED, index);
            } else if (kind == RECEIVED) {
                slot->have = cqe->res;
                slot->put = 0;
                move(SENT, index);
            } else {
                slot->put += cqe->res;
                move(slot->put < slot->have ? SENT : RECEIVED, index);
            }
        }
        io_uring_cq_advance(&ring, seen);
    }
}

static void watch(int poll, int fd, unsigned events, uint64_t data, int change)
{
    struct epoll_event event = { .events = events, .data.u64 = data };

    calls++;
    if (epoll_ctl(poll, change, fd, &event))
        fail("epoll_ctl", errno);
}

/* 1 when the connection has ended. */
static int echo_turn(int poll, int index)
{
    struct slot *slot = &slots[index];
    char *buffer = buffers + (size_t)index * BUFFER;
    long moved;

    if (slot->put >= slot->have) {
        calls++;
        moved = recv(slot->fd, buffer, BUFFER, 0);
        if (moved < 0 && errno == EAGAIN)
            return 0;
        if (moved <= 0)
            return 1;
        slot->have = moved;
        slot->put = 0;
    }
    calls++;
    moved = send(slot->fd, buffer + slot->put, slot->have - slot->put, MSG_NOSIGNAL);
    if (moved < 0 && errno != EAGAIN)
        return 1;
    if (moved > 0)
        slot->put += moved;
    if ((slot->put < slot->have) != slot->writing) {
        slot->writing = !slot->writing;
        watch(poll, slot->fd, slot->writing ? EPOLLOUT : EPOLLIN, index + 1, EPOLL_CTL_MOD);
    }
    return 0;
}

static void echo_epoll(long clients)
{
    struct epoll_event events[256];
    int poll = epoll_create1(0);
    long served = 0;

    watch(poll, listener, EPOLLIN, 0, EPOLL_CTL_ADD);
    while (served < clients) {
        int ready = epoll_wait(poll, events, 256, -1);

        calls++;
        for (int i = 0; i < ready; i++) {
            int index = (int)events[i].data.u64 - 1;

            if (index >= 0) {
                if (!echo_turn(poll, index))
                    continue;
                calls++;
                close(slots[index].fd);
                give_slot(index);
                served++;
                continue;
            }
            for (;;) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

                calls++;
                if (fd < 0)
                    break;
                watch(poll, fd, EPOLLIN, take_slot(fd) + 1, EPOLL_CTL_ADD);
            }
        }
    }
    close(poll);
}

static void listen_anywhere(int flags)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);

    listener = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
        fail("listen", errno);
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void load(int port, int clients, long each)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons(port) };
    struct epoll_event events[256];
    char message[MESSAGE] = "0123456789";
    long *left = calloc(clients, sizeof(*left));
    int *fds = calloc(clients, sizeof(*fds)), poll = epoll_create1(0), one = 1, active = clients;
    double start;

    for (int i = 0; i < clients; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fds[i], (struct sockaddr *)&address, sizeof(address)))
            fail("connect", errno);
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        watch(poll, fds[i], EPOLLIN, i, EPOLL_CTL_ADD);
        left[i] = each;
    }
    start = now(CLOCK_MONOTONIC);
    for (int i = 0; i < clients; i++)
        if (send(fds[i], message, MESSAGE, 0) != MESSAGE)
            fail("send", errno);
    while (active) {
        int ready = epoll_wait(poll, events, 256, -1);

        for (int k = 0; k < ready; k++) {
            int i = events[k].data.u64;

            if (recv(fds[i], message, MESSAGE, MSG_WAITALL) != MESSAGE)
                fail("recv", errno);
            if (!--left[i]) {
                epoll_ctl(poll, EPOLL_CTL_DEL, fds[i], NULL);
                active--;
            } else if (send(fds[i], message, MESSAGE, 0) != MESSAGE) {
                fail("send", errno);
            }
        }
    }
    printf("%.9f\n", now(CLOCK_MONOTONIC) - start);
}

/* --- tee ----------------------------------------------------------------------------------- */

static void tee_uring(int from, const int *to, int sinks)
{
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe;

    for (;;) {
        int have, waiting = sinks;

        sqe = next_sqe();
        io_uring_prep_recv(sqe, from, buffers, TEE_BLOCK, 0);
        enter();
        if (io_uring_peek_cqe(&ring, &cqe))
            fail("peek", 0);
        have = cqe->res;
        io_uring_cqe_seen(&ring, cqe);
        if (have <= 0)
            return;
        for (int i = 0; i < sinks; i++) {
            slots[i].put = 0;
            sqe = next_sqe();
            io_uring_prep_send(sqe, to[i], buffers, have, 0);
            io_uring_sqe_set_data64(sqe, i);
        }
        while (waiting) {
            enter();
            while (!io_uring_peek_cqe(&ring, &cqe)) {
                int i = cqe->user_data, put = cqe->res;

                io_uring_cqe_seen(&ring, cqe);
                if (put <= 0)
                    fail("send", put);
                slots[i].put += put;
                if ((int)slots[i].put == have) {
                    waiting--;
                    continue;
                }
                sqe = next_sqe();
                io_uring_prep_send(sqe, to[i], buffers + slots[i].put, have - slots[i].put, 0);
                io_uring_sqe_set_data64(sqe, i);
            }
        }
    }
}

static void tee_loop(int from, const int *to, int sinks)
{
    long have;

    while (calls++, (have = recv(from, buffers, TEE_BLOCK, 0)) > 0)
        for (int i = 0; i < sinks; i++)
            if (calls++, send(to[i], buffers, have, 0) != have)
                fail("send", errno);
}

static void spread(long bytes, long each, int source, const int *sinks, int count)
{
    static char data[65536];
    struct epoll_event events[64];
    int poll = epoll_create1(0), active = count;
    long left = bytes, got[SINKS] = { 0 };
    double start = now(CLOCK_MONOTONIC);

    watch(poll, source, EPOLLOUT, count, EPOLL_CTL_ADD);
    for (int i = 0; i < count; i++)
        watch(poll, sinks[i], EPOLLIN, i, EPOLL_CTL_ADD);
    while (active) {
        int ready = epoll_wait(poll, events, 64, -1);

        for (int k = 0; k < ready; k++) {
            int i = events[k].data.u64;
            long moved;

            if (i == count) {
                moved = send(source, data, left < TEE_BLOCK ? left : TEE_BLOCK, MSG_DONTWAIT);
                left -= moved > 0 ? moved : 0;
                if (!left) {
                    epoll_ctl(poll, EPOLL_CTL_DEL, source, NULL);
                    shutdown(source, SHUT_WR);
                }
                continue;
            }
            moved = recv(sinks[i], data, sizeof(data), MSG_DONTWAIT);
            if (moved <= 0)
                fail("sink", moved);
            got[i] += moved;
            if (got[i] == each) {
                epoll_ctl(poll, EPOLL_CTL_DEL, sinks[i], NULL);
                active--;
            }
        }
    }
    printf("%.9f\n", now(CLOCK_MONOTONIC) - start);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "", *how = argc > 2 ? argv[2] : "";
    int depth = atoi(how), fds[SINKS], count = 0;
    char line[32];

    if (!strcmp(mode, "load") && argc == 5) {
        load(depth, atoi(argv[3]), atol(argv[4]));
        return 0;
    }
    if (!strcmp(mode, "tee") || !strcmp(mode, "spread"))
        for (int at = *mode == 's' ? 4 : 3; at < argc && count < SINKS; at++)
            fds[count++] = atoi(argv[at]);
    if (!strcmp(mode, "spread") && count > 1) {
        spread(atol(how), atol(argv[3]), fds[0], fds + 1, count - 1);
        return 0;
    }
    if (io_uring_queue_init(256, &ring, 0))
        fail("io_uring_queue_init", errno);
    buffers = aligned_alloc(4096, 4 << 20);
    memset(buffers, 1, 4 << 20);
    if (!strcmp(mode, "echo")) {
        listen_anywhere(strcmp(how, "epoll") ? 0 : SOCK_NONBLOCK);
    } else if (!count && argc > 3) {
        from_fd = open(argv[3], O_RDONLY);
        to_fd = argc > 4 ? open(argv[4], O_WRONLY) : -1;
        size_bytes = lseek(from_fd, 0, SEEK_END);
    }
    while (fgets(line, sizeof(line), stdin)) {
        double start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);

        calls = 0;
        if (!strcmp(mode, "echo") && !strcmp(how, "epoll"))
            echo_epoll(atol(line));
        else if (!strcmp(mode, "echo"))
            echo_uring(atol(line));
        else if (!strcmp(mode, "tee") && !strcmp(how, "loop"))
            tee_loop(fds[0], fds + 1, count - 1);
        else if (!strcmp(mode, "tee"))
            tee_uring(fds[0], fds + 1, count - 1);
        else if (!strcmp(mode, "copy") && depth)
            keep_depth(depth, copy_next, copied);
        else if (!strcmp(mode, "copy"))
            copy_loop();
        else if (depth)
            keep_depth(depth, sum_next, summed);
        else
            sum_loop();
        printf("%.9f %.9f %ld %llu\n", now(CLOCK_MONOTONIC) - start,
               now(CLOCK_PROCESS_CPUTIME_ID) - cpu, calls, (unsigned long long)total);
        fflush(stdout);
    }
    return 0;
}
