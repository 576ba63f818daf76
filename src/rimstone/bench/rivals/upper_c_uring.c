/* The upper-case server in C on io_uring: multishot accept and recv, buffers that the kernel picks, one enter a turn.
 *
 *   upper_c_uring PORT [plain]      plain: one request for each accept and recv, as on a kernel older than 6.0
 *
 * A message is answered from the buffer it came in, which goes back to the kernel when it is sent. A connection whose
 * recv ended for want of a buffer is asked again when one has come back.
 *
 * A client has to wait for its reply before it sends again, as load.c does: of two sends that are under way on one
 * connection, the second could overtake the first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "uring.h"

enum { REQUESTS = 4096, COMPLETIONS = 32768, BUFFERS = 16384, SIZE = 1024 };

static struct ring ring;
static bool multishot = true;
static struct buffer *free_buffers; /* the ring of those that the kernel may fill; multishot only */
static uint16_t free_tail;
static char *data;                  /* of all buffers; in plain mode buffer number = descriptor */
static int *starved, starved_count; /* connections that wait for a buffer */

/* user_data: operation, buffer, descriptor */
static uint64_t tag(uint8_t op, unsigned buffer, int fd) { return (uint64_t)op << 56 | (uint64_t)buffer << 32 | (uint32_t)fd; }

static struct sqe *ask(uint8_t op, unsigned buffer, int fd) {
    struct sqe *request = ring_request(&ring, op, fd, tag(op, buffer, fd));
    if (!request) perror("io_uring_enter"), exit(1);
    return request;
}

static void give_back(unsigned buffer) {
    struct buffer *slot = &free_buffers[free_tail++ % BUFFERS];
    slot->addr = (uint64_t)(uintptr_t)(data + (size_t)buffer * SIZE), slot->len = SIZE, slot->bid = (uint16_t)buffer;
    __atomic_store_n(&free_buffers[0].tail, free_tail, __ATOMIC_RELEASE);
}

static void ask_accept(int server) {
    struct sqe *request = ask(OP_ACCEPT, 0, server);
    if (multishot) request->ioprio = ACCEPT_MULTISHOT;
}

static void ask_recv(int fd) {
    struct sqe *request = ask(OP_RECV, multishot ? 0 : (unsigned)fd, fd);
    if (multishot) request->ioprio = RECV_MULTISHOT, request->flags = SQE_BUFFER_SELECT;
    else request->addr = (uint64_t)(uintptr_t)(data + (size_t)fd * SIZE), request->len = SIZE;
}

static void answer(int fd, unsigned buffer, int length) {
    char *message = data + (size_t)buffer * SIZE;
    for (int i = 0; i < length; i++) message[i] = (char)toupper((unsigned char)message[i]);
    struct sqe *request = ask(OP_SEND, buffer, fd);
    request->addr = (uint64_t)(uintptr_t)message, request->len = (uint32_t)length;
    request->op_flags = MSG_NOSIGNAL | MSG_WAITALL; /* the kernel sends the rest of what was sent in part */
}

static void completed(const struct cqe *done, int server) {
    int op = (int)(done->user_data >> 56), fd = (int)(uint32_t)done->user_data, one = 1;
    unsigned buffer = (unsigned)(done->user_data >> 32) & 0xffffff;
    if (op == OP_ACCEPT) {
        if (done->res >= BUFFERS && !multishot) close(done->res); /* plain mode has no buffer for it */
        else if (done->res >= 0) {
            setsockopt(done->res, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            ask_recv(done->res);
        }
        if (!(done->flags & CQE_MORE)) ask_accept(server);
    } else if (op == OP_RECV) {
        if (done->flags & CQE_BUFFER) buffer = done->flags >> CQE_BUFFER_SHIFT;
        if (done->res > 0) answer(fd, buffer, done->res);
        else if (done->flags & CQE_BUFFER) give_back(buffer);
        if (done->flags & CQE_MORE) return;
        if (done->res == -ENOBUFS) starved[starved_count++] = fd;
        else if (done->res <= 0) ask(OP_CLOSE, 0, fd); /* behind the sends that are under way, so none goes astray */
        else if (multishot) ask_recv(fd);
    } else if (op == OP_SEND) {
        if (!multishot) {
            if (done->res > 0) ask_recv(fd);
            else ask(OP_CLOSE, 0, fd);
            return;
        }
        give_back(buffer);
        if (starved_count) ask_recv(starved[--starved_count]);
    }
}

/* The buffers, as the kernel wants them; without that it is plain mode. */
static bool offer_buffers(void) {
    free_buffers = mmap(0, BUFFERS * sizeof *free_buffers, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    struct buffer_ring_request request = {.addr = (uint64_t)(uintptr_t)free_buffers, .entries = BUFFERS};
    if (free_buffers == MAP_FAILED || syscall(__NR_io_uring_register, ring.fd, REGISTER_PBUF_RING, &request, 1)) return false;
    for (unsigned buffer = 0; buffer < BUFFERS; buffer++) give_back(buffer);
    return true;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    socklen_t length = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(server, (struct sockaddr *)&address, length) || listen(server, 4096)) return perror("bind, listen"), 1;
    getsockname(server, (struct sockaddr *)&address, &length);
    int outcome = ring_open(&ring, REQUESTS, COMPLETIONS);
    if (outcome) return fprintf(stderr, "io_uring is not to be had: %s\n", strerror(-outcome)), 1;
    data = mmap(0, (size_t)BUFFERS * SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    starved = calloc(1 << 20, sizeof *starved);
    if (data == MAP_FAILED || !starved) return perror("memory"), 1;
    multishot = (argc < 3 || strcmp(argv[2], "plain")) && offer_buffers();
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    ask_accept(server);
    while (1) {
        struct cqe done;
        if (ring_enter(&ring, 1) < 0) return perror("io_uring_enter"), 1;
        while (ring_completion(&ring, &done)) completed(&done, server);
    }
}
