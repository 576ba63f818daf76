/* io_uring by bare system calls: what the programs beside this file need of it, and nothing else.
 *
 * The structures are the kernel's own, written down once more (they can never change), so that a machine with old headers
 * and a new kernel will do. Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), linux/io_uring.h.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

enum {
    OP_ACCEPT = 13, OP_CLOSE = 19, OP_SEND = 26, OP_RECV = 27,
    SQE_BUFFER_SELECT = 1 << 5,         /* flags: the kernel picks a buffer of the group */
    ACCEPT_MULTISHOT = 1 << 0,          /* ioprio of an accept: one request, a completion for each connection */
    RECV_MULTISHOT = 1 << 1,            /* ioprio of a recv: one request, a completion for each message */
    CQE_BUFFER = 1 << 0, CQE_MORE = 1 << 1, CQE_BUFFER_SHIFT = 16,
    SETUP_CQSIZE = 1 << 3,
    SETUP_SINGLE_ISSUER = 1 << 12,
    SETUP_DEFER_TASKRUN = 1 << 13,      /* completions are worked off in our own enter, not by interrupting us */
    ENTER_GETEVENTS = 1 << 0,
    REGISTER_PBUF_RING = 22,
};

struct sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off, addr;
    uint32_t len, op_flags;
    uint64_t user_data;
    uint16_t buf_group, personality;
    int32_t file_index;
    uint64_t pad[2];
};

struct cqe { uint64_t user_data; int32_t res; uint32_t flags; };
struct sq_offsets { uint32_t head, tail, mask, entries, flags, dropped, array, reserved; uint64_t user_addr; };
struct cq_offsets { uint32_t head, tail, mask, entries, overflow, cqes, flags, reserved; uint64_t user_addr; };
struct ring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, reserved[3];
    struct sq_offsets sq;
    struct cq_offsets cq;
};
struct buffer { uint64_t addr; uint32_t len; uint16_t bid, tail; }; /* the tail of the first is the ring's */
struct buffer_ring_request { uint64_t addr; uint32_t entries; uint16_t group, flags; uint64_t reserved[3]; };

struct ring {
    int fd;
    uint32_t *sq_head, *sq_tail, sq_mask, sq_entries, *cq_head, *cq_tail, cq_mask, pending;
    struct sqe *sqes;
    struct cqe *cqes;
};

static int ring_open_as(struct ring *ring, uint32_t entries, uint32_t completions, uint32_t flags) {
    struct ring_params params = {.flags = flags | SETUP_CQSIZE, .cq_entries = completions};
    ring->fd = (int)syscall(__NR_io_uring_setup, entries, &params);
    if (ring->fd < 0) return -errno;
    int protection = PROT_READ | PROT_WRITE, kind = MAP_SHARED | MAP_POPULATE;
    size_t sq_size = params.sq.array + params.sq_entries * sizeof(uint32_t);
    size_t cq_size = params.cq.cqes + params.cq_entries * sizeof(struct cqe);
    char *sq = mmap(0, sq_size, protection, kind, ring->fd, 0), *cq = mmap(0, cq_size, protection, kind, ring->fd, 0x8000000);
    ring->sqes = mmap(0, params.sq_entries * sizeof(struct sqe), protection, kind, ring->fd, 0x10000000);
    if (sq == MAP_FAILED || cq == MAP_FAILED || ring->sqes == MAP_FAILED) return close(ring->fd), -ENOMEM;
    ring->sq_head = (uint32_t *)(sq + params.sq.head), ring->sq_tail = (uint32_t *)(sq + params.sq.tail);
    ring->cq_head = (uint32_t *)(cq + params.cq.head), ring->cq_tail = (uint32_t *)(cq + params.cq.tail);
    ring->sq_mask = *(uint32_t *)(sq + params.sq.mask), ring->cq_mask = *(uint32_t *)(cq + params.cq.mask);
    ring->cqes = (struct cqe *)(cq + params.cq.cqes);
    ring->sq_entries = params.sq_entries, ring->pending = 0;
    uint32_t *array = (uint32_t *)(sq + params.sq.array);
    for (uint32_t i = 0; i < params.sq_entries; i++) array[i] = i;
    return 0;
}

/* Opens a ring in the best way that the kernel has; a negative errno if it has none. */
static int ring_open(struct ring *ring, uint32_t entries, uint32_t completions) {
    int outcome = ring_open_as(ring, entries, completions, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN);
    return outcome == -EINVAL ? ring_open_as(ring, entries, completions, 0) : outcome;
}

/* Hands over what is pending and waits for so many completions; one system call. */
static int ring_enter(struct ring *ring, uint32_t wait_for) {
    int done = (int)syscall(__NR_io_uring_enter, ring->fd, ring->pending, wait_for, ENTER_GETEVENTS, 0, 0);
    if (done < 0) return errno == EINTR || errno == EAGAIN || errno == EBUSY ? 0 : -errno;
    ring->pending -= (uint32_t)done;
    return done;
}

/* The next free request, cleared; hands over the pending ones first when there is none. */
static struct sqe *ring_request(struct ring *ring, uint8_t opcode, int fd, uint64_t user_data) {
    uint32_t tail = *ring->sq_tail;
    while (tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE) == ring->sq_entries)
        if (ring_enter(ring, 0) < 0) return 0;
    struct sqe *request = &ring->sqes[tail & ring->sq_mask];
    memset(request, 0, sizeof *request);
    request->opcode = opcode, request->fd = fd, request->user_data = user_data;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    ring->pending++;
    return request;
}

/* The next completion; false when none is there. */
static bool ring_completion(struct ring *ring, struct cqe *found) {
    uint32_t head = *ring->cq_head;
    if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) return false;
    *found = ring->cqes[head & ring->cq_mask];
    __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
    return true;
}
