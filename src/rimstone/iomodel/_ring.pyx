"""The kernel's io_uring, by raw system calls: requests go into one ring, answers come out of another. Read `uring.py`.

There is no twin in Python: two rings of memory that the kernel writes to at any time need C. Nor is liburing or a new
kernel header needed to build this: what of <linux/io_uring.h> is used stands below, under own names.

Who owns what
-------------
An `Operation` belongs to the kernel from the moment its request is written until its completion has been reaped; as
long, the ring keeps it alive, and with it the data it sends, or what a file is read into. What a socket receives goes into buffers of the ring itself, of
which the kernel picks one when there is data: a thousand connections that wait need none.

The thread that made the ring is the only one that may use it (IORING_SETUP_SINGLE_ISSUER), and the kernel does the work
of a request only within that thread's own `io_uring_enter` (IORING_SETUP_DEFER_TASKRUN). So nothing is received, sent
or accepted behind our back, which is what makes `withdraw` exact: a request that is cancelled before the next call has
not taken anything.

A forked child has the descriptor of its parent's ring, and must not have its memory, which the kernel would go on
sharing between the two: it is mapped with MADV_DONTFORK, and the child only closes the descriptor.
"""

import errno
import os
import platform
import socket
import struct

from rimstone.clock import monotonic
from rimstone.iomodel._entry import Sockets

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from rimstone.iomodel._entry cimport Sockets
from rimstone.iomodel.base cimport Scheduler

__all__ = ["Operation", "Ring", "blank", "why_unavailable"]

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/types.h>
    #include <unistd.h>

    #if defined(__linux__)
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #ifndef __NR_io_uring_setup  /* headers before Linux 5.1; the numbers are the same everywhere but on Alpha */
    #define __NR_io_uring_setup 425
    #define __NR_io_uring_enter 426
    #define __NR_io_uring_register 427
    #endif
    #endif

    enum {
        ROP_NOP = 0, ROP_FSYNC = 3, ROP_READ = 22, ROP_WRITE = 23, ROP_POLL_ADD = 6, ROP_ACCEPT = 13, ROP_ASYNC_CANCEL = 14, ROP_SEND = 26, ROP_RECV = 27,
        RSQE_ASYNC = 1 << 4, RSQE_BUFFER_SELECT = 1 << 5, RSQE_CQE_SKIP_SUCCESS = 1 << 6,
        RSEND_POLL_FIRST = 1 << 0, RFSYNC_DATASYNC = 1 << 0,
        RCANCEL_ALL = 1 << 0, RCANCEL_ANY = 1 << 2,
        RCQE_BUFFER = 1 << 0, RCQE_SOCK_NONEMPTY = 1 << 2, RCQE_BUFFER_SHIFT = 16,
        RSQ_CQ_OVERFLOW = 1 << 1, RSQ_TASKRUN = 1 << 2,
        RENTER_GETEVENTS = 1 << 0, RENTER_EXT_ARG = 1 << 3,
        RSETUP_CQSIZE = 1 << 3, RSETUP_CLAMP = 1 << 4, RSETUP_SUBMIT_ALL = 1 << 7, RSETUP_COOP_TASKRUN = 1 << 8,
        RSETUP_TASKRUN_FLAG = 1 << 9, RSETUP_SINGLE_ISSUER = 1 << 12, RSETUP_DEFER_TASKRUN = 1 << 13,
        RREGISTER_PBUF_RING = 22,
    };

    struct rimstone_sqe {
        uint8_t opcode, flags; uint16_t ioprio; int32_t fd; uint64_t off, addr; uint32_t len, op_flags;
        uint64_t user_data; uint16_t buf_group, personality; int32_t splice_fd; uint64_t pad[2];
    };
    struct rimstone_cqe { uint64_t user_data; int32_t res; uint32_t flags; };
    struct rimstone_offsets {
        uint32_t head, tail, ring_mask, ring_entries, flags_or_overflow, dropped_or_cqes, array_or_flags, resv;
        uint64_t user_addr;
    };
    struct rimstone_params {
        uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
        struct rimstone_offsets sq, cq;
    };
    struct rimstone_buf { uint64_t addr; uint32_t len; uint16_t bid, resv; };
    struct rimstone_buf_reg { uint64_t ring_addr; uint32_t ring_entries; uint16_t bgid, flags; uint64_t resv[3]; };
    struct rimstone_arg { uint64_t sigmask; uint32_t sigmask_sz, pad; uint64_t ts; };
    struct rimstone_timespec { int64_t sec; long long nsec; };

    /* What is mapped of one ring. */
    struct rimstone_ring {
        int fd;
        uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
        uint32_t sq_entries, sq_mask, cq_mask;
        struct rimstone_sqe *sqes;
        struct rimstone_cqe *cqes;
        struct rimstone_buf *bufs;   /* of the ring through which the kernel gets receive buffers */
        char *memory;                /* the buffers themselves */
        void *maps[3];
        size_t sizes[3];
    };

    /* A number that no other thread of this process has, or will ever have: those of the system are used again. */
    static uint64_t rimstone_thread(void) {
        static __thread uint64_t mine;
        static uint64_t last;
        if (!mine)
            mine = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
        return mine;
    }

    #define rimstone_prefetch(p) __builtin_prefetch((const void *)(uintptr_t)(p), 1)
    #define rimstone_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define rimstone_store(p, value) __atomic_store_n((p), (value), __ATOMIC_RELEASE)

    /* The tail of the buffer ring lies where the first buffer has its reserved field. */
    static void rimstone_give_buffer(struct rimstone_ring *ring, uint16_t tail, uint16_t bid,
                                     uint32_t count, uint32_t size, uint32_t stride) {
        struct rimstone_buf *buf = &ring->bufs[tail & (count - 1)];
        buf->addr = (uint64_t)(uintptr_t)(ring->memory + (size_t)bid * stride);
        buf->len = size;
        buf->bid = bid;
        rimstone_store(&ring->bufs[0].resv, (uint16_t)(tail + 1));
    }

    static uint32_t rimstone_poll_mask(uint32_t mask) {
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        mask = mask << 16 | mask >> 16;
    #endif
        return mask;
    }

    #if defined(__linux__)
    /* Seconds below 0: for ever. Returns what was submitted, or -errno. */
    static int rimstone_enter(int fd, unsigned submit, unsigned least, unsigned flags, double seconds) {
        struct rimstone_timespec ts;
        struct rimstone_arg arg;
        long done;
        memset(&arg, 0, sizeof arg);
        if (seconds >= 0) {
            ts.sec = (int64_t)seconds;
            ts.nsec = (long long)((seconds - (double)ts.sec) * 1e9);
            arg.ts = (uint64_t)(uintptr_t)&ts;
            done = syscall(__NR_io_uring_enter, fd, submit, least, flags | RENTER_EXT_ARG, &arg, sizeof arg);
        } else
            done = syscall(__NR_io_uring_enter, fd, submit, least, flags, NULL, (size_t)0);
        return done < 0 ? -errno : (int)done;
    }

    static int rimstone_close(struct rimstone_ring *ring, int unmap) {
        int i;
        if (ring->fd >= 0)
            close(ring->fd);
        ring->fd = -1;
        for (i = 0; i < 3; i++) {
            if (unmap && ring->maps[i])
                munmap(ring->maps[i], ring->sizes[i]);
            ring->maps[i] = NULL;
        }
        return 0;
    }

    static void *rimstone_map(struct rimstone_ring *ring, int i, size_t size, int flags, off_t offset) {
        int fd = flags & MAP_ANONYMOUS ? -1 : ring->fd;
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
        if (map == MAP_FAILED)
            return NULL;
        ring->maps[i] = map;
        ring->sizes[i] = size;
        return madvise(map, size, MADV_DONTFORK) ? NULL : map;
    }

    /* Returns 0 or -errno. */
    static int rimstone_setup(struct rimstone_ring *ring, unsigned entries, unsigned answers,
                              uint32_t buffers, uint32_t buffer_size, uint32_t stride) {
        struct rimstone_params p;
        struct rimstone_buf_reg reg;
        size_t size, other, header = sizeof(struct rimstone_buf) * buffers;
        uint32_t i, *array;
        char *rings;
        memset(ring, 0, sizeof *ring);
        memset(&p, 0, sizeof p);
        p.flags = RSETUP_CQSIZE | RSETUP_CLAMP | RSETUP_SUBMIT_ALL | RSETUP_COOP_TASKRUN | RSETUP_TASKRUN_FLAG
                  | RSETUP_SINGLE_ISSUER | RSETUP_DEFER_TASKRUN;
        p.cq_entries = answers;
        ring->fd = (int)syscall(__NR_io_uring_setup, entries, &p);
        if (ring->fd < 0)
            return -errno;
        size = p.sq.array_or_flags + p.sq_entries * sizeof(uint32_t);
        other = p.cq.dropped_or_cqes + p.cq_entries * sizeof(struct rimstone_cqe);
        /* One mapping for both rings: IORING_FEAT_SINGLE_MMAP is older than what has been asked for above. */
        rings = rimstone_map(ring, 0, size > other ? size : other, MAP_SHARED | MAP_POPULATE, 0);
        if (!rings)
            goto failed;
        size = p.sq_entries * sizeof(struct rimstone_sqe);
        ring->sqes = rimstone_map(ring, 1, size, MAP_SHARED | MAP_POPULATE, 0x10000000);
        if (!ring->sqes)
            goto failed;
        ring->bufs = rimstone_map(ring, 2, header + (size_t)buffers * stride, MAP_PRIVATE | MAP_ANONYMOUS, 0);
        if (!ring->bufs)
            goto failed;
        ring->memory = (char *)ring->bufs + header;
        ring->sq_head = (uint32_t *)(rings + p.sq.head);
        ring->sq_tail = (uint32_t *)(rings + p.sq.tail);
        ring->sq_flags = (uint32_t *)(rings + p.sq.flags_or_overflow);
        ring->sq_mask = *(uint32_t *)(rings + p.sq.ring_mask);
        ring->sq_entries = p.sq_entries;
        ring->cq_head = (uint32_t *)(rings + p.cq.head);
        ring->cq_tail = (uint32_t *)(rings + p.cq.tail);
        ring->cq_mask = *(uint32_t *)(rings + p.cq.ring_mask);
        ring->cqes = (struct rimstone_cqe *)(rings + p.cq.dropped_or_cqes);
        array = (uint32_t *)(rings + p.sq.array_or_flags);
        for (i = 0; i < p.sq_entries; i++)
            array[i] = i;  /* place i of the ring is request i, once and for all */
        memset(&reg, 0, sizeof reg);
        reg.ring_addr = (uint64_t)(uintptr_t)ring->bufs;
        reg.ring_entries = buffers;
        if (syscall(__NR_io_uring_register, ring->fd, RREGISTER_PBUF_RING, &reg, 1) < 0)
            goto failed;
        for (i = 0; i < buffers; i++)
            rimstone_give_buffer(ring, (uint16_t)i, (uint16_t)i, buffers, buffer_size, stride);
        return 0;
    failed:
        i = (uint32_t)errno;
        rimstone_close(ring, 1);
        return -(int)i;
    }
    #else  /* it compiles everywhere, and says that there is none */
    static int rimstone_enter(int fd, unsigned submit, unsigned least, unsigned flags, double seconds) {
        return -ENOSYS;
    }
    static int rimstone_close(struct rimstone_ring *ring, int unmap) { return 0; }
    static int rimstone_setup(struct rimstone_ring *ring, unsigned entries, unsigned answers,
                              uint32_t buffers, uint32_t buffer_size, uint32_t stride) {
        return -ENOSYS;
    }
    #endif
    """
    struct rimstone_sqe:
        unsigned char opcode, flags
        unsigned short ioprio
        int fd
        unsigned long long off, addr, user_data
        unsigned int len, op_flags
    struct rimstone_cqe:
        unsigned long long user_data
        int res
        unsigned int flags
    struct rimstone_ring:
        int fd
        unsigned int *sq_head
        unsigned int *sq_tail
        unsigned int *sq_flags
        unsigned int *cq_tail
        unsigned int *cq_head
        unsigned int sq_entries, sq_mask, cq_mask
        rimstone_sqe *sqes
        rimstone_cqe *cqes
        char *memory
    enum:
        ROP_NOP, ROP_FSYNC, ROP_READ, ROP_WRITE, ROP_POLL_ADD, ROP_ACCEPT, ROP_ASYNC_CANCEL, ROP_SEND, ROP_RECV
        RSQE_ASYNC, RSQE_BUFFER_SELECT, RSQE_CQE_SKIP_SUCCESS, RSEND_POLL_FIRST, RFSYNC_DATASYNC, RCANCEL_ALL, RCANCEL_ANY
        RCQE_BUFFER, RCQE_SOCK_NONEMPTY, RCQE_BUFFER_SHIFT, RSQ_CQ_OVERFLOW, RSQ_TASKRUN, RENTER_GETEVENTS
    unsigned long long rimstone_thread()
    void rimstone_prefetch(unsigned long long address) nogil
    unsigned int rimstone_load(unsigned int *place) nogil
    void rimstone_store(unsigned int *place, unsigned int value) nogil
    void rimstone_give_buffer(rimstone_ring *ring, unsigned short tail, unsigned short bid, unsigned count, unsigned size,
                              unsigned stride)
    unsigned int rimstone_poll_mask(unsigned int mask)
    int rimstone_enter(int fd, unsigned submit, unsigned least, unsigned flags, double seconds) nogil
    int rimstone_setup(rimstone_ring *ring, unsigned entries, unsigned answers, unsigned buffers, unsigned size,
                       unsigned stride)
    int rimstone_close(rimstone_ring *ring, bint unmap)

cdef extern from "errno.h":
    int EAGAIN, EBUSY, ECANCELED, EINTR, ENOMEM, ETIME

cdef extern from "poll.h":
    int POLLIN, POLLOUT

cdef extern from "sys/socket.h":
    int MSG_WAITALL, SOCK_CLOEXEC

cdef extern from "unistd.h":
    int c_close "close"(int fd)
    int getpid()
    int usleep(unsigned int microseconds) nogil

cdef extern from "Python.h":
    void Py_INCREF(object)
    void Py_DECREF(object)
    char *PyByteArray_AS_STRING(object)

cdef enum:
    ENTRIES = 512
    ANSWERS = 4096
    BUFFERS = 256
    BUFFER_BYTES = 4096
    CLOSING_ATTEMPTS = 1000
    CLOSING_PAUSE_US = 1000
    STRIDE_BYTES = 4160  # a cache line more, or the beginnings of all of them would share one set of the first cache
    INLINE_BYTES = 131072  # of a file, that may be copied within the call that submits: some 20 us
    READ = 1
    NOBODY = 0  # user_data of requests whose completion tells nothing
    WAKEUP = 1  # user_data of the one that waits for the wake-up descriptor


@cython.final
@cython.freelist(256)
@cython.no_gc  # it is in nobody's cycle: when it is done, it lets go of its task
cdef class Operation:
    """One request, from `Ring.recv` and its kin; it is `done` when the kernel has answered.

    Attributes:
        task: Who waits for it, and is made ready when it is done; None from then on.
        entry: What the model knows of the socket. The ring does not care.
        fd: The descriptor.
        start, whole: Of a send; as `Ring.send` was told.
        shielded: It works on a file: a kill does not cancel it, and its task waits on.
        done: True once `result` is there. It is -ECANCELED after `withdraw`, unless the answer came first.
        result: What the system call returns, or -errno.
        more: After a receive: there is more to be read at once.
    """

    def __cinit__(self):
        self._opcode = ROP_NOP

    def __dealloc__(self):
        self.release()
        if self._opcode == ROP_ACCEPT and self.result >= 0:
            c_close(self.result)  # nobody has taken the connection

    cpdef release(self):
        """Let go of the data that was sent, or of what a file was read into."""
        if self._opcode == ROP_SEND:
            self._value = None
        if self._exported:
            self._exported = False
            PyBuffer_Release(&self._view)

    cpdef bint has_taken(self):
        """Whether something is lost if nobody looks at the result: what was received, sent or accepted, or an error."""
        return self.result != -ECANCELED and self.result != -EINTR and self._opcode != ROP_POLL_ADD

    cpdef bint is_recv(self):
        """Whether `data` is what it was asked for."""
        return self._opcode == ROP_RECV

    cpdef bytes data(self):
        """What was received. It is the caller's from now on: the task that waited keeps this until it waits again."""
        cdef bytes data = self._value
        self._value = None
        return b"" if data is None else data

    cpdef tuple connection(self):
        """What was accepted: (descriptor, peer's address). It is the caller's from now on."""
        fd = self.result
        self._opcode = ROP_NOP
        return fd, _address(bytes(self._value))


cdef object _address(bytes stored):
    """A socket address as Python writes it; *stored* is its length and then itself."""
    length, family = struct.unpack_from("=IH", stored)
    address = stored[4 : 4 + length]
    if family == socket.AF_INET:
        (port,) = struct.unpack_from("!2xH", address)
        return socket.inet_ntop(family, address[4:8]), port
    if family == socket.AF_INET6:
        port, flow = struct.unpack_from("!2xHI", address)
        (scope,) = struct.unpack_from("=I", address, 24)
        return socket.inet_ntop(family, address[8:24]), port, flow, scope
    name = address[2:]
    if name[:1] == b"\0":  # in the abstract name space
        return name
    return os.fsdecode(name.partition(b"\0")[0])


cdef class Ring:
    """One io_uring, of the thread that makes it.

    Attributes:
        waiting: How many operations the kernel holds.
        crowd: How many were done in the last poll.
        woken: The wake-up descriptor has become readable; nobody watches it until `watch_wakeup`.
    """

    def __cinit__(self, scheduler):
        cdef int result
        self._scheduler = scheduler
        self._thread = rimstone_thread()
        self._pid = getpid()
        self._withdrawn = []
        self._sockets = Sockets()
        self._ring = <rimstone_ring *>calloc(1, sizeof(rimstone_ring))
        if self._ring is NULL:
            raise MemoryError
        self._ring.fd = -1
        result = rimstone_setup(self._ring, ENTRIES, ANSWERS, BUFFERS, BUFFER_BYTES, STRIDE_BYTES)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        self._given = BUFFERS

    def __dealloc__(self):
        # Operations that are still there keep the ring's memory no longer than the ring itself: nobody asks it again.
        if self._ring is not NULL:
            rimstone_close(self._ring, self._pid == getpid())
            free(self._ring)

    # -- requests ----------------------------------------------------------------------------------------------

    # Each belongs to *sock*, where that is not None, and is taken back if the socket object has been closed (by a plain
    # thread, behind our back) before the kernel sees the request: it would act on the number's next owner.

    cpdef Operation recv(self, task, sock, int fd, Py_ssize_t size_bytes, bint is_dry):
        """Receive up to *size_bytes* from a stream. *is_dry*: wait first, since there is nothing to be read yet."""
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe = self._request(ROP_RECV, fd)
        sqe.len = <unsigned int>min(size_bytes, BUFFER_BYTES)
        sqe.flags = RSQE_BUFFER_SELECT
        if is_dry:
            sqe.ioprio = RSEND_POLL_FIRST
        else:
            self._prompt += 1
        return self._added(sqe, operation, task, sock)

    cpdef Operation send(self, task, sock, int fd, data, Py_ssize_t start, int flags, bint whole):
        """Send *data* from *start* on; *whole*: it is done when all of it is sent, or an error came."""
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe
        cdef const char *place
        cdef Py_ssize_t size
        if PyBytes_CheckExact(data):
            operation._value = data
            place = PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        else:
            PyObject_GetBuffer(data, &operation._view, PyBUF_SIMPLE)
            operation._exported = True
            place = <const char *>operation._view.buf
            size = operation._view.len
        sqe = self._request(ROP_SEND, fd)
        operation.start = start
        operation.whole = whole
        sqe.addr = <unsigned long long><size_t>(place + start)
        sqe.len = <unsigned int>min(size - start, 0x7FFFF000)  # what one system call takes at most
        sqe.op_flags = <unsigned int>(flags | (MSG_WAITALL if whole else 0))
        self._prompt += 1
        return self._added(sqe, operation, task, sock)

    cpdef Operation use_file(self, task, int fd, buffer, Py_ssize_t start, Py_ssize_t size, long long offset, bint writes):
        """Read *size* bytes of a file into *buffer*, from *start* on; or write them. *offset* as in `pread`.

        It may be read into bytes, too: those that `blank` has just made.
        """
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe
        PyObject_GetBuffer(
            buffer, &operation._view, PyBUF_SIMPLE if writes or PyBytes_CheckExact(buffer) else PyBUF_WRITABLE
        )
        operation._exported = True
        if start < 0 or size < 0 or start + size > operation._view.len:
            raise ValueError("the buffer is smaller than what is to be read or written")
        sqe = self._request(ROP_WRITE if writes else ROP_READ, fd)
        if size > INLINE_BYTES:
            sqe.flags = RSQE_ASYNC
        sqe.addr = <unsigned long long><size_t>(<char *>operation._view.buf + start)
        sqe.len = <unsigned int>size
        sqe.off = <unsigned long long>offset
        operation.shielded = True
        self._prompt += 1
        return self._added(sqe, operation, task, None)

    cpdef Operation sync_file(self, task, int fd, bint data_only):
        """Let the disk have what was written to a file."""
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe = self._request(ROP_FSYNC, fd)
        sqe.op_flags = RFSYNC_DATASYNC if data_only else 0
        operation.shielded = True
        self._prompt += 1
        return self._added(sqe, operation, task, None)

    cpdef Operation accept(self, task, sock, int fd):
        """Take a connection."""
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe
        cdef bytearray stored = bytearray(4 + 128)
        cdef char *place = PyByteArray_AS_STRING(stored)
        (<unsigned int *>place)[0] = 128
        operation._value = stored
        sqe = self._request(ROP_ACCEPT, fd)
        sqe.addr = <unsigned long long><size_t>(place + 4)
        sqe.off = <unsigned long long><size_t>place
        sqe.op_flags = SOCK_CLOEXEC
        return self._added(sqe, operation, task, sock)

    cpdef Operation poll_add(self, task, sock, int fd, int events):
        """Wait until *fd* is ready for READ or WRITE (or-ed)."""
        cdef Operation operation = Operation.__new__(Operation)
        cdef rimstone_sqe *sqe = self._request(ROP_POLL_ADD, fd)
        sqe.op_flags = rimstone_poll_mask((POLLIN if events & READ else 0) | (POLLOUT if events & ~READ else 0))
        return self._added(sqe, operation, task, sock)

    cpdef watch_wakeup(self, int fd):
        """Let `woken` tell when *fd* is readable, once."""
        cdef rimstone_sqe *sqe = self._request(ROP_POLL_ADD, fd)
        sqe.op_flags = rimstone_poll_mask(POLLIN)
        sqe.user_data = WAKEUP
        self.woken = False

    cdef rimstone_sqe *_request(self, int opcode, int fd) except NULL:
        """The next free place, which the kernel sees from now on: fill it without a call that may raise."""
        cdef rimstone_ring *ring = self._ring
        cdef rimstone_sqe *sqe
        self._check_open()
        if self._tail - rimstone_load(ring.sq_head) >= ring.sq_entries:
            self._make_room()
        sqe = &ring.sqes[self._tail & ring.sq_mask]
        memset(sqe, 0, sizeof(rimstone_sqe))
        sqe.opcode = <unsigned char>opcode
        sqe.fd = fd
        self._tail += 1
        rimstone_store(ring.sq_tail, self._tail)
        return sqe

    cdef int _check_open(self) except -1:
        if self._ring.fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    cdef int _make_room(self) except -1:
        """Submit what is there, without looking for answers."""
        cdef rimstone_ring *ring = self._ring
        cdef int result
        while self._tail - rimstone_load(ring.sq_head) >= ring.sq_entries:
            result = rimstone_enter(ring.fd, self._pending(), 0, 0, -1)
            if result == -EAGAIN or result == -EBUSY:  # out of memory for requests, or too many answers: take those
                result = rimstone_enter(ring.fd, 0, 0, RENTER_GETEVENTS, -1)
                self._reap()
            if result < 0 and result != -EINTR:
                raise OSError(-result, os.strerror(-result))
        self._prompt = 0

    cdef Operation _added(self, rimstone_sqe *sqe, Operation operation, task, sock):
        operation.task = task
        operation._sock = sock
        operation.fd = sqe.fd
        operation._opcode = sqe.opcode
        operation._position = self._tail - 1
        operation.result = -ECANCELED
        Py_INCREF(operation)
        sqe.user_data = <size_t><void *>operation
        self.waiting += 1
        return operation

    # -- answers -----------------------------------------------------------------------------------------------

    cpdef poll(self, timeout):
        """Submit the requests and make ready whose are done, waiting up to *timeout* seconds for one.

        One system call, or none if there is nothing to submit and nothing has happened. The interpreter lock is kept
        unless it has to wait.
        """
        cdef rimstone_ring *ring = self._ring
        cdef bint may_wait = timeout is None or timeout > 0
        cdef double seconds = -1, deadline = 0
        cdef unsigned int pending
        cdef int result
        cdef int fd
        cdef Py_ssize_t done = self._done
        self._check_open()
        if self._withdrawn:
            self._ask_to_cancel()
        if rimstone_load(ring.cq_tail) != self._head:  # a signal handler cut short the last poll
            may_wait = False
        pending = self._tail - rimstone_load(ring.sq_head)
        if rimstone_load(ring.sq_flags) or (pending and (self._prompt or not may_wait)):
            self._enter()
        if may_wait and rimstone_load(ring.cq_tail) == self._head:
            if timeout is not None:
                seconds = timeout
                deadline = monotonic() + seconds
            PyErr_CheckSignals()  # a signal that came since Python code ran last would not end the wait
            fd = ring.fd
            while True:
                pending = self._pending()
                with nogil:
                    result = rimstone_enter(fd, pending, 1, RENTER_GETEVENTS, seconds)
                if rimstone_load(ring.cq_tail) != self._head or result == -ETIME:
                    break
                if result == -EINTR or result == -EAGAIN or result == -EBUSY or result >= 0:
                    PyErr_CheckSignals()
                    if timeout is not None:
                        seconds = max(0.0, deadline - monotonic())
                    continue
                raise OSError(-result, os.strerror(-result))
        self._prompt = 0
        self._reap()
        self.crowd = self._done - done

    cpdef submit(self):
        """Submit the requests now, and make ready whose are done."""
        self._check_open()
        self._enter()
        self._reap()

    cdef unsigned int _pending(self) except? 0:
        """How many requests are to be submitted. Those whose sockets have lost their descriptors are taken back."""
        cdef rimstone_ring *ring = self._ring
        cdef unsigned int position = rimstone_load(ring.sq_head)
        cdef unsigned int pending = self._tail - position
        cdef rimstone_sqe *sqe
        cdef Operation operation
        while position != self._tail:
            sqe = &ring.sqes[position & ring.sq_mask]
            position += 1
            if sqe.user_data > WAKEUP:
                operation = <Operation><void *><size_t>sqe.user_data
                if operation._sock is not None and self._sockets.fd(operation._sock) != sqe.fd:
                    self._take_back(operation)
        return pending

    cdef int _enter(self) except -1:
        """Submit, let the kernel do the work it has deferred, wait for nothing."""
        cdef rimstone_ring *ring = self._ring
        cdef int result = rimstone_enter(ring.fd, self._pending(), 0, RENTER_GETEVENTS, -1)
        self._prompt = 0
        if result < 0 and result != -EINTR and result != -EAGAIN and result != -EBUSY:
            raise OSError(-result, os.strerror(-result))

    cdef int _reap(self) except -1:
        cdef rimstone_ring *ring = self._ring
        cdef rimstone_cqe *cqe
        cdef unsigned long long whose
        cdef unsigned int flags
        cdef int result
        while rimstone_load(ring.cq_tail) != self._head:
            cqe = &ring.cqes[self._head & ring.cq_mask]
            whose = cqe.user_data
            result = cqe.res
            flags = cqe.flags
            self._head += 1
            # Whose the next answer is has not been looked at for as long as it waited.
            rimstone_prefetch(ring.cqes[self._head & ring.cq_mask].user_data)
            rimstone_store(ring.cq_head, self._head)
            if whose == WAKEUP:
                self.woken = True
            elif whose != NOBODY:
                self._answer(<Operation><void *><size_t>whose, result, flags)

    cdef int _answer(self, Operation operation, int result, unsigned int flags) except -1:
        cdef unsigned short bid
        operation.result = result
        operation.more = flags & RCQE_SOCK_NONEMPTY != 0
        if flags & RCQE_BUFFER:
            bid = <unsigned short>(flags >> RCQE_BUFFER_SHIFT)
            if result > 0:
                try:
                    operation._value = PyBytes_FromStringAndSize(
                        self._ring.memory + <size_t>bid * STRIDE_BYTES, result
                    )
                except MemoryError:
                    operation.result = -ENOMEM
            rimstone_give_buffer(self._ring, self._given, bid, BUFFERS, BUFFER_BYTES, STRIDE_BYTES)
            self._given += 1
        self._finish(operation)

    cdef int _finish(self, Operation operation) except -1:
        operation.done = True
        self.waiting -= 1
        self._done += 1
        self._scheduler.happened(operation.task, operation)
        operation.task = operation._sock = None
        Py_DECREF(operation)

    # -- taking requests back ----------------------------------------------------------------------------------

    cpdef withdraw(self, Operation operation):
        """Cancel *operation*, and come back when it is done: what it works on may be reused or closed then."""
        if operation.done or self._ring.fd < 0 or self._take_back(operation):
            return
        self._cancel(operation)
        self._settle(operation)

    cpdef withdraw_soon(self, Operation operation):
        """Cancel *operation* before the kernel does anything else for us: at the next poll, or `settle`."""
        self._withdrawn.append(operation)

    cpdef settle(self):
        """Come back when all that `withdraw_soon` was asked for is done."""
        if self._ring.fd < 0:  # then there is nothing left
            self._withdrawn = []
        elif self._withdrawn:
            for operation in self._ask_to_cancel():
                self._settle(operation)

    cdef list _ask_to_cancel(self):
        cdef list withdrawn = self._withdrawn
        cdef Operation operation
        self._withdrawn = []
        for operation in withdrawn:
            if not operation.done and not self._take_back(operation):
                self._cancel(operation)
        return withdrawn

    cdef bint _take_back(self, Operation operation) except -1:
        """True if the kernel has not seen it yet, and so never will."""
        cdef rimstone_ring *ring = self._ring
        cdef rimstone_sqe *sqe = &ring.sqes[operation._position & ring.sq_mask]
        cdef unsigned int head = rimstone_load(ring.sq_head)
        # The numbers wrap around, so an old one may look like one that is to come.
        if operation._position - head >= self._tail - head or sqe.user_data != <size_t><void *>operation:
            return False
        memset(sqe, 0, sizeof(rimstone_sqe))
        sqe.opcode = ROP_NOP
        self._finish(operation)
        return True

    cdef int _cancel(self, Operation operation) except -1:
        cdef rimstone_sqe *sqe = self._request(ROP_ASYNC_CANCEL, -1)
        sqe.addr = <size_t><void *>operation
        sqe.flags = RSQE_CQE_SKIP_SUCCESS
        self._prompt += 1

    cdef int _settle(self, Operation operation) except -1:
        """Usually the cancelled request is answered in the very call that submits the cancellation."""
        cdef int result, fd = self._ring.fd
        cdef unsigned int pending
        if self._withdrawn:
            self._ask_to_cancel()
        self._enter()
        self._reap()
        while not operation.done:
            pending = self._pending()
            with nogil:
                result = rimstone_enter(fd, pending, 1, RENTER_GETEVENTS, -1)
            if result < 0 and result not in (-EINTR, -EAGAIN, -EBUSY):
                raise OSError(-result, os.strerror(-result))
            self._reap()

    cpdef close(self):
        """Cancel everything and give back descriptor and memory. Idempotent.

        In a forked child, and in another thread after the ring's own has ended, only the descriptor is closed: the
        kernel has cancelled a thread's requests when it ended. Where the kernel lacks the memory to cancel them, it gives
        up after a second; what it may still work on is never freed then.
        """
        cdef rimstone_ring *ring = self._ring
        cdef rimstone_sqe *sqe
        cdef unsigned int position, pending
        cdef int result, attempts = 0
        cdef bint is_ours = self._pid == getpid()
        if self._ring.fd < 0:
            return
        if is_ours and self._thread == rimstone_thread():
            position = rimstone_load(ring.sq_head)
            while position != self._tail:
                sqe = &ring.sqes[position & ring.sq_mask]
                position += 1
                if sqe.user_data > WAKEUP:
                    self._take_back(<Operation><void *><size_t>sqe.user_data)
            sqe = self._request(ROP_ASYNC_CANCEL, -1)
            sqe.op_flags = RCANCEL_ANY | RCANCEL_ALL
            self._enter()
            self._reap()
            while self.waiting and attempts < CLOSING_ATTEMPTS:
                pending = self._tail - rimstone_load(ring.sq_head)  # the cancellation, if there was no memory for it
                with nogil:
                    result = rimstone_enter(ring.fd, pending, 1, RENTER_GETEVENTS, -1)
                    if result < 0 and result != -EINTR:
                        rimstone_enter(ring.fd, 0, 0, RENTER_GETEVENTS, -1)  # too many answers are in its way, perhaps
                        usleep(CLOSING_PAUSE_US)
                        attempts += 1
                self._reap()
        rimstone_close(self._ring, is_ours and not self.waiting)

    @property
    def fd(self):
        """Its descriptor; -1 when it is closed."""
        return self._ring.fd


cpdef bytes blank(Py_ssize_t size):
    """Bytes that nobody has filled yet: to be read into, before anybody else sees them."""
    return PyBytes_FromStringAndSize(NULL, size)


cdef object _refusal = ()  # what `why_unavailable` has found; () as long as it has not looked


cpdef why_unavailable():
    """Why there can be no ring here, in words; None if there can be. It tries, once in a process."""
    global _refusal
    if _refusal == ():
        try:
            Ring.__new__(Ring, None).close()
            _refusal = None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                return f"io_uring_setup gave {errno.errorcode[error.errno]}"  # which may pass
            _refusal = _reason(error.errno)
    return _refusal


cdef str _reason(int number):
    if number == errno.ENOSYS:
        return "io_uring_setup gave ENOSYS: this kernel has no io_uring, or a container's seccomp profile hides it"
    if number in (errno.EPERM, errno.EACCES):
        try:
            with open("/proc/sys/kernel/io_uring_disabled") as file:
                disabled = file.read().strip()
        except OSError:
            disabled = "0"
        if disabled != "0":
            return f"it is switched off here: kernel.io_uring_disabled is {disabled} (see sysctl)"
        return "io_uring_setup gave EPERM: a container's seccomp profile or a security module forbids it"
    if number == errno.EINVAL:
        return f"it needs Linux 6.1 or newer (IORING_SETUP_DEFER_TASKRUN), and this is {platform.release()}"
    return f"io_uring_setup gave {errno.errorcode.get(number, number)}: {os.strerror(number)}"
