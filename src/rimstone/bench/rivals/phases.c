/* The two phases of a receive, timed for each family of IO models: waiting for the data, and copying it to the process.
 *
 *   phases FAMILY SENDER_CPU [MESSAGES [PAUSE_US [SIZE]]]     FAMILY: blocking, nonblocking, select, poll, epoll, uring
 *
 * A thread on another CPU sends a message of SIZE bytes PAUSE_US after the receiver has begun to wait for it. A message
 * arrives as a whole (SOCK_SEQPACKET), so the border between the phases is sharp. Prints one JSON object:
 *
 *   wait_us         median time from the first call until the data are known to be there
 *   wait_cpu_share  CPU time of the receiver in that phase, as a share of it: 1 is a core burnt. The time in which it could
 *                   run and other programs did does not count (from proc_pid_schedstat, where the kernel has that)
 *   copy_us         median time of the copy
 *   calls           system calls for a message, counted where they are made
 *   copy_calls      how many of them only copy; 0: the family has no such call, one call (or the kernel) does both
 *
 * Where one call does both (blocking, uring), the border cannot be seen from outside: there copy_us is what the call takes
 * when the message is there already, and wait_us is the rest of the time it takes when it is not.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>

#include "uring.h"

enum { MOST_MESSAGES = 100000 };

static int messages = 200, pause_us = 1000, size = 65536, sender_cpu, ours, theirs, epoll;
static sem_t begun, sent;
static struct ring ring;
static char *data;
static double waits[MOST_MESSAGES], copies[MOST_MESSAGES];
static double wait_total, wait_cpu_total;
static long calls;

static void die(const char *what) { perror(what), exit(1); }

static double clock_us(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

/* How long this thread could have run and did not get the CPU; 0 where the kernel does not say. */
static double delayed_us(void) {
    static int file = -2;
    char line[128] = "";
    unsigned long long ran, delayed = 0;
    if (file == -2) file = open("/proc/thread-self/schedstat", O_RDONLY);
    if (file < 0 || pread(file, line, sizeof line - 1, 0) <= 0 || sscanf(line, "%llu %llu", &ran, &delayed) != 2) return 0;
    return (double)delayed / 1e3;
}

static void *send_all(void *with_pause) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(sender_cpu, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    char *message = calloc(1, (size_t)size);
    for (int i = 0; i < messages; i++) {
        sem_wait(&begun);
        if (with_pause) usleep((useconds_t)pause_us);
        if (send(theirs, message, (size_t)size, 0) != size) die("send");
        sem_post(&sent);
    }
    free(message);
    return 0;
}

static void copy(void) {
    calls++;
    if (recv(ours, data, (size_t)size, 0) != size) die("recv");
}

/* Each waits until data are there. Those that have copied as well say so. */
static bool wait_blocking(void) { return copy(), true; }

static bool wait_nonblocking(void) {
    while (calls++, recv(ours, data, (size_t)size, 0) < 0)
        if (errno != EAGAIN) die("recv");
    return true; /* the call that found them: timed apart, see below */
}

static bool wait_select(void) {
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(ours, &readable);
    calls++;
    if (select(ours + 1, &readable, 0, 0, 0) != 1) die("select");
    return false;
}

static bool wait_poll(void) {
    struct pollfd one = {.fd = ours, .events = POLLIN};
    calls++;
    if (poll(&one, 1, -1) != 1) die("poll");
    return false;
}

static bool wait_epoll(void) {
    struct epoll_event event;
    calls++;
    if (epoll_wait(epoll, &event, 1, -1) != 1) die("epoll_wait");
    return false;
}

static bool wait_uring(void) {
    struct sqe *request = ring_request(&ring, OP_RECV, ours, 0);
    struct cqe done;
    request->addr = (uint64_t)(uintptr_t)data, request->len = (uint32_t)size;
    do {
        calls++;
        if (ring_enter(&ring, 1) < 0) die("io_uring_enter");
    } while (!ring_completion(&ring, &done));
    if (done.res != size) errno = -done.res, die("io_uring recv");
    return true;
}

static const struct family {
    const char *name;
    bool (*wait)(void);
} families[] = {
    {"blocking", wait_blocking}, {"nonblocking", wait_nonblocking}, {"select", wait_select},
    {"poll", wait_poll},         {"epoll", wait_epoll},             {"uring", wait_uring},
};

static int in_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values) {
    qsort(values, (size_t)messages, sizeof *values, in_order);
    return values[messages / 2];
}

int main(int argc, char **argv) {
    const struct family *family = 0;
    for (size_t i = 0; argc > 2 && i < sizeof families / sizeof *families; i++)
        if (!strcmp(argv[1], families[i].name)) family = &families[i];
    if (!family) return fprintf(stderr, "usage: phases FAMILY SENDER_CPU [MESSAGES [PAUSE_US [SIZE]]]; see phases.c\n"), 2;
    sender_cpu = atoi(argv[2]);
    if (argc > 3) messages = atoi(argv[3]);
    if (argc > 4) pause_us = atoi(argv[4]);
    if (argc > 5) size = atoi(argv[5]);
    if (messages < 1 || messages > MOST_MESSAGES || size < 1) return fprintf(stderr, "phases: MESSAGES or SIZE is out of range\n"), 2;
    bool is_uring = family->wait == wait_uring, is_nonblocking = family->wait == wait_nonblocking;

    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) die("socketpair");
    ours = pair[0], theirs = pair[1], data = malloc((size_t)size);
    memset(data, 1, (size_t)size); /* its pages are there before they are timed */
    if (is_nonblocking) fcntl(ours, F_SETFL, O_NONBLOCK);
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, ours, &(struct epoll_event){.events = EPOLLIN});
    int outcome = is_uring ? ring_open(&ring, 8, 16) : 0;
    if (outcome) return printf("{\"skipped\": \"io_uring is not to be had: %s\"}\n", strerror(-outcome)), 0;
    sem_init(&begun, 0, 0), sem_init(&sent, 0, 0);

    pthread_t sender;
    if (pthread_create(&sender, 0, send_all, &pause_us)) die("pthread_create");
    bool does_both = false;
    for (int i = 0; i < messages; i++) {
        sem_post(&begun);
        double delayed = delayed_us(), cpu = clock_us(CLOCK_THREAD_CPUTIME_ID), from = clock_us(CLOCK_MONOTONIC);
        does_both = family->wait();
        double until = clock_us(CLOCK_MONOTONIC);
        wait_cpu_total += clock_us(CLOCK_THREAD_CPUTIME_ID) - cpu, wait_total += until - from;
        wait_total -= delayed_us() - delayed;
        waits[i] = until - from;
        if (!does_both) {
            double copying = clock_us(CLOCK_MONOTONIC); /* anew: to take the times above takes time */
            copy();
            copies[i] = clock_us(CLOCK_MONOTONIC) - copying;
        }
        sem_wait(&sent);
    }
    pthread_join(sender, 0);
    double calls_a_message = (double)calls / messages;
    if (does_both) { /* the second pass: each message is there before it is asked for */
        if (pthread_create(&sender, 0, send_all, 0)) die("pthread_create");
        for (int i = 0; i < messages; i++) {
            sem_post(&begun), sem_wait(&sent);
            double from = clock_us(CLOCK_MONOTONIC);
            family->wait();
            copies[i] = clock_us(CLOCK_MONOTONIC) - from;
        }
        pthread_join(sender, 0);
    }
    double copied = median(copies), waited = median(waits) - (does_both ? copied : 0);
    printf("{\"family\": \"%s\", \"messages\": %d, \"size_bytes\": %d, \"pause_us\": %d, \"wait_us\": %.2f, "
           "\"wait_cpu_share\": %.4f, \"copy_us\": %.2f, \"calls\": %.2f, \"copy_calls\": %d}\n",
           family->name, messages, size, pause_us, waited, wait_cpu_total / wait_total, copied, calls_a_message,
           does_both && !is_nonblocking ? 0 : 1);
    return 0;
}
