/* The load generator: N connections to one upper-case server, each a closed loop: send, wait for the reply, check, count.
 *
 *   load PORT CONNECTIONS SIZE WARMUP_SECONDS SECONDS [--active A] [--messages M] [--pid P] [--lockstep] [--hold S]
 *        [--patience S] [--think US] [--end]
 *
 *   --active A     only A connections talk after their first message, the others stay open and idle
 *   --messages M   ends after exactly M messages instead of after SECONDS, without a warm-up: for counting instructions
 *   --pid P        also reports the CPU seconds that process P, the server, used in the measured time, and its memory
 *                  (PSS) before the first connection and when each had its first answer
 *   --hold S       with --pid: before that, all connections are silent for S seconds; reports the server's CPU seconds
 *   --patience S   waits S seconds for the first answers and then goes on with the connections that got one; without it,
 *                  it is an error if one gets none
 *   --end          with --pid: ends the server (SIGTERM) before it closes its connections: for counting, too
 *   --think US     with --messages: a message is sent on each connection, and US after the last reply the next one. So a
 *                  server that a tracer slows down finds no message there before it has asked, as when nobody traces it
 *   --lockstep     with --messages and --pid: one message on each connection, all there before the server sees the first,
 *                  then all replies. So the server waits once for each message and each of its polls finds the same work,
 *                  however fast this process happens to be.
 *
 * Prints one JSON object. `errors` counts wrong bytes and lost connections, `unanswered` the messages that still had no
 * reply a while after the end: a server that loses a wakeup shows there, not in the rate.
 *
 * Its own cost must stay below the server's, or it would be measured instead: registered once, edge-triggered, no
 * second recv when the reply is whole, the clock read through the vDSO. `cpu_seconds` tells whether it was the limit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
    CONNECTS_AT_ONCE = 128,     /* far below every rival's backlog of 4096 */
    CONNECTIONS_A_SOURCE = 20000, /* one address has some 28,000 ephemeral ports to one destination */
    EVENTS = 1024,
    LETTERS = 26,
    SUB_BITS = 7,
    SUB_BUCKETS = 1 << SUB_BITS, /* for each power of two: a percentile is off by 0.8 % at most */
    BUCKETS = 36 * SUB_BUCKETS, /* of nanoseconds, to more than an hour */
};

static const uint64_t SECOND = 1000000000;
static const uint64_t PATIENCE_NS = 60 * 1000000000ull; /* for all connections together to open and to answer once */
static const uint64_t STALLED_NS = 10 * 1000000000ull; /* without any first answer, while some are due */
static const uint64_t DRAIN_NS = 5 * 1000000000ull;

struct connection {
    int fd;
    bool waiting;       /* a message is under way */
    bool talks;         /* sends again after a reply */
    bool answered;      /* has had its first answer */
    size_t sent, received;
    unsigned letter;    /* where in the alphabet the message under way begins: no two in a row are equal */
    uint64_t since_ns, messages;
};

static int epoll_fd, port;
static size_t size;
static struct connection *connections;
static int connection_count;
static char *lower, *upper, *reply; /* the alphabet over and over; message k begins at its k-th letter */

static uint64_t messages, errors, in_flight;
static uint64_t budget = UINT64_MAX; /* how many messages may still be sent */
static bool measuring;
static uint64_t histogram[BUCKETS];

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time)) die("clock_gettime: %s", strerror(errno));
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* --- Percentiles */

static unsigned bucket_of(uint64_t ns) {
    if (ns < 2 * SUB_BUCKETS) return (unsigned)ns;
    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS;
    unsigned bucket = shift * SUB_BUCKETS + (unsigned)(ns >> shift);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double percentile_us(double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)messages);
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen > wanted) {
            if (bucket < 2 * SUB_BUCKETS) return bucket / 1e3;
            unsigned shift = bucket / SUB_BUCKETS - 1;
            return (double)((uint64_t)(bucket - shift * SUB_BUCKETS) << shift) / 1e3;
        }
    }
    return 0;
}

/* --- One connection */

static void lose(struct connection *c) {
    errors++;
    if (c->waiting) in_flight--;
    c->waiting = false;
    close(c->fd);
    c->fd = -1;
}

static void push(struct connection *c) {
    while (c->sent < size) {
        ssize_t n = send(c->fd, lower + c->letter + c->sent, size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return; /* EPOLLOUT will come */
        if (n < 0) { lose(c); return; }
        c->sent += (size_t)n;
    }
}

static void say(struct connection *c) {
    if (!budget) return;
    budget--;
    c->sent = c->received = 0;
    c->letter = (c->letter + 1) % LETTERS;
    c->since_ns = now_ns();
    c->waiting = true;
    in_flight++;
    push(c);
}

static void hear(struct connection *c) {
    while (true) {
        /* One byte more than is due: what comes too much is an error, and is found. */
        ssize_t n = recv(c->fd, reply, size - c->received + 1, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0 || !c->waiting || c->received + (size_t)n > size) { lose(c); return; }
        if (memcmp(reply, upper + c->letter + c->received, (size_t)n)) { lose(c); return; }
        c->received += (size_t)n;
        if (c->received < size) continue;
        c->waiting = false;
        c->answered = true;
        in_flight--;
        if (measuring) {
            messages++;
            c->messages++;
            histogram[bucket_of(now_ns() - c->since_ns)]++;
        }
        if (c->talks) say(c);
        return;
    }
}

/* --- All connections */

static void turn(uint64_t deadline) {
    static struct epoll_event events[EVENTS];
    uint64_t now = now_ns();
    int timeout_ms = now >= deadline ? 0 : (int)((deadline - now) / 1000000 + 1);
    int n = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->fd >= 0 && c->waiting && c->sent < size) push(c);
        if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) hear(c);
    }
}

static void start_connecting(struct connection *c) {
    int number = (int)(c - connections), one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket %d: %s", number, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connection_count > CONNECTIONS_A_SOURCE) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number / CONNECTIONS_A_SOURCE));
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) die("bind: %s", strerror(errno));
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
    /* A refusal at once is reported as an event too, so there is one place that looks at the outcome. */
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS && errno != ECONNREFUSED)
        die("connect %d: %s", number, strerror(errno));
}

static void connect_all(void) {
    static struct epoll_event events[EVENTS];
    uint64_t deadline = now_ns() + PATIENCE_NS;
    int begun = 0, open = 0;
    while (open < connection_count) {
        while (begun < connection_count && begun - open < CONNECTS_AT_ONCE) start_connecting(&connections[begun++]);
        int n = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            int error = 0;
            socklen_t length = sizeof error;
            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
            if (!error && events[i].events & EPOLLOUT && !(events[i].events & EPOLLHUP)) {
                open++;
                continue;
            }
            close(c->fd); /* refused or reset: the server is not there yet, or its backlog is full */
            usleep(10000);
            start_connecting(c);
        }
        if (now_ns() > deadline) die("only %d of %d connections open after 60 s", open, connection_count);
    }
}

/* Brings every connection into its steady state: accepted, its task started and parked again. Returns how many are. */
static int greet_all(uint64_t patience_ns) {
    uint64_t deadline = now_ns() + (patience_ns ? patience_ns : PATIENCE_NS), last_progress = now_ns(), open = 0;
    int answered = 0;
    for (int i = 0; i < connection_count; i++) say(&connections[i]);
    while (in_flight && now_ns() < deadline) {
        if (in_flight != open) open = in_flight, last_progress = now_ns();
        if (now_ns() - last_progress > STALLED_NS) break; /* there is no hope for the rest */
        turn(deadline < last_progress + STALLED_NS ? deadline : last_progress + STALLED_NS);
    }
    if (errors) die("%llu of %d first answers were wrong", (unsigned long long)errors, connection_count);
    if (in_flight && !patience_ns)
        die("%llu of %d connections got no answer", (unsigned long long)in_flight, connection_count);
    for (int i = 0; i < connection_count; i++) {
        answered += connections[i].answered;
        connections[i].waiting = false;
    }
    in_flight = 0;
    return answered;
}

/* The proportional set size of process *pid*, in bytes (proc_pid_smaps(5)): what is shared counts in parts. */
static long long pss_of(int pid) {
    char path[64], line[256];
    long long kilobytes = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    while (fgets(line, sizeof line, file) && sscanf(line, "Pss: %lld kB", &kilobytes) != 1) {}
    fclose(file);
    return kilobytes * 1024;
}

static void stay_silent(uint64_t length_ns) {
    uint64_t deadline = now_ns() + length_ns;
    while (now_ns() < deadline) turn(deadline); /* a server that speaks unasked is found out */
}

static void run_with_pauses(uint64_t think_ns, int active) {
    while (budget && !errors) {
        stay_silent(think_ns);
        for (int i = 0; i < active; i++) say(&connections[i]);
        for (uint64_t deadline = now_ns() + PATIENCE_NS; in_flight && now_ns() < deadline;) turn(deadline);
        if (in_flight) return; /* reported as unanswered */
    }
}

/* The state of process *pid* as in proc_pid_stat(5); 0 when it is gone. */
static char state_of(int pid) {
    char path[64], line[512] = "", *end;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (!fgets(line, sizeof line, file)) line[0] = 0;
    fclose(file);
    end = strrchr(line, ')'); /* the name before it may hold anything */
    return end && end[1] ? end[2] : 0;
}

/* Waits until process *pid* is in *state*: S for asleep, T for stopped. */
static void await_state(int pid, char state) {
    for (uint64_t deadline = now_ns() + PATIENCE_NS; now_ns() < deadline; usleep(200)) {
        char now = state_of(pid);
        if (!now) die("the server, process %d, has ended", pid);
        if (now == state) return;
    }
    die("the server, process %d, did not get into state %c in 60 s", pid, state);
}

static void end_server(int pid) {
    if (kill(pid, SIGTERM)) die("SIGTERM: %s", strerror(errno));
    for (uint64_t deadline = now_ns() + PATIENCE_NS; now_ns() < deadline; usleep(1000)) {
        char state = state_of(pid);
        if (!state || state == 'Z' || state == 'X') return;
    }
    die("the server, process %d, did not end in 60 s", pid);
}

static void run_in_lockstep(int pid, int active) {
    while (budget && !errors) {
        await_state(pid, 'S'); /* so that it is always stopped at the same place: where it waits */
        if (kill(pid, SIGSTOP)) die("SIGSTOP: %s", strerror(errno));
        await_state(pid, 'T');
        for (int i = 0; i < active; i++) say(&connections[i]);
        kill(pid, SIGCONT);
        for (uint64_t deadline = now_ns() + PATIENCE_NS; in_flight && now_ns() < deadline;) turn(deadline);
        if (in_flight) return; /* reported as unanswered */
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"active", required_argument, 0, 'a'}, {"messages", required_argument, 0, 'm'},
        {"pid", required_argument, 0, 'p'},    {"lockstep", no_argument, 0, 'l'},
        {"hold", required_argument, 0, 'h'},   {"patience", required_argument, 0, 'w'},
        {"think", required_argument, 0, 't'},  {"end", no_argument, 0, 'e'},
        {0},
    };
    int active = -1, pid = 0, option;
    bool lockstep = false, ends_server = false;
    uint64_t wanted = 0, hold_ns = 0, patience_ns = 0, think_ns = 0;
    while ((option = getopt_long(argc, argv, "", options, 0)) != -1) {
        if (option == 'a') active = atoi(optarg);
        else if (option == 'm') wanted = strtoull(optarg, 0, 10);
        else if (option == 'p') pid = atoi(optarg);
        else if (option == 'l') lockstep = true;
        else if (option == 'e') ends_server = true;
        else if (option == 'h') hold_ns = (uint64_t)(atof(optarg) * 1e9);
        else if (option == 'w') patience_ns = (uint64_t)(atof(optarg) * 1e9);
        else if (option == 't') think_ns = (uint64_t)(atof(optarg) * 1e3);
        else return 2;
    }
    if (argc - optind != 5)
        die("usage: load PORT CONNECTIONS SIZE WARMUP_SECONDS SECONDS [OPTIONS]; see load.c");
    port = atoi(argv[optind]);
    connection_count = atoi(argv[optind + 1]);
    size = (size_t)atol(argv[optind + 2]);
    uint64_t warmup_ns = (uint64_t)(atof(argv[optind + 3]) * 1e9), measured_ns = (uint64_t)(atof(argv[optind + 4]) * 1e9);
    if (port < 1 || connection_count < 1 || size < 1) die("PORT, CONNECTIONS and SIZE must be at least 1");
    if (active < 0 || active > connection_count) active = connection_count;
    if (lockstep && (!pid || !wanted)) die("--lockstep needs --pid and --messages");
    if ((hold_ns || ends_server) && !pid) die("--hold and --end need --pid");
    if (think_ns && (!wanted || lockstep)) die("--think needs --messages, and excludes --lockstep");

    connections = calloc((size_t)connection_count, sizeof *connections);
    lower = malloc(size + LETTERS), upper = malloc(size + LETTERS), reply = malloc(size + 1);
    if (!connections || !lower || !upper || !reply) die("out of memory");
    for (size_t i = 0; i < size + LETTERS; i++) {
        lower[i] = (char)('a' + i % LETTERS);
        upper[i] = (char)('A' + i % LETTERS);
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) die("epoll_create1: %s", strerror(errno));
    for (int i = 0; i < connection_count; i++) connections[i].letter = (unsigned)i % LETTERS;
    clockid_t server_clock;
    if (pid && clock_getcpuclockid(pid, &server_clock)) die("no CPU clock of process %d", pid);

    long long pss_before = pid ? pss_of(pid) : -1;
    uint64_t began = now_ns();
    connect_all();
    int answered = greet_all(patience_ns);
    double connect_seconds = (double)(now_ns() - began) / 1e9, idle_cpu_seconds = 0, idle_seconds = 0;
    long long pss_after = pid ? pss_of(pid) : -1;
    if (hold_ns) {
        stay_silent(hold_ns / 10); /* whatever the server still had to do */
        uint64_t cpu = clock_ns(server_clock), from = now_ns();
        stay_silent(hold_ns);
        idle_cpu_seconds = (double)(clock_ns(server_clock) - cpu) / 1e9;
        idle_seconds = (double)(now_ns() - from) / 1e9;
    }

    if (wanted) {
        budget = wanted;
        warmup_ns = 0;
        measured_ns = 10 * PATIENCE_NS; /* an emulated server is slow */
        measuring = true;
    }
    /* The talking ones are spread over the idle ones, as in life. */
    uint64_t start = now_ns() + warmup_ns;
    uint64_t server_before = pid ? clock_ns(server_clock) : 0, own_before = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < active && !lockstep && !think_ns; i++) {
        struct connection *c = &connections[(uint64_t)i * (uint64_t)connection_count / (uint64_t)active];
        if (!c->answered) continue;
        c->talks = true;
        say(c);
    }
    while (now_ns() < start) turn(start);
    if (!wanted) {
        measuring = true;
        server_before = pid ? clock_ns(server_clock) : 0;
        own_before = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        start = now_ns();
    }
    if (lockstep) run_in_lockstep(pid, active);
    if (think_ns) run_with_pauses(think_ns, active);
    uint64_t end = start + measured_ns;
    while (now_ns() < end && in_flight) turn(end);
    measuring = false;
    uint64_t stop = now_ns();
    uint64_t server_after = pid ? clock_ns(server_clock) : 0, own_after = clock_ns(CLOCK_PROCESS_CPUTIME_ID);

    /* Closing with a reply under way would send a reset, and each rival's handler would print a traceback. */
    budget = 0;
    for (uint64_t deadline = now_ns() + DRAIN_NS; in_flight && now_ns() < deadline;) turn(deadline);

    if (ends_server) end_server(pid);

    uint64_t fewest = active ? UINT64_MAX : 0, most = 0;
    for (int i = 0; i < connection_count; i++) {
        if (!connections[i].talks && !connections[i].messages) continue;
        if (connections[i].messages < fewest) fewest = connections[i].messages;
        if (connections[i].messages > most) most = connections[i].messages;
    }
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"errors\": %llu, \"unanswered\": %llu, \"p50_us\": %.3f, \"p99_us\": %.3f, "
           "\"cpu_seconds\": %.6f, \"server_cpu_seconds\": %.6f, \"connect_seconds\": %.6f, "
           "\"fewest_a_connection\": %llu, \"most_a_connection\": %llu, \"answered\": %d, \"pss_before\": %lld, "
           "\"pss_after\": %lld, \"idle_seconds\": %.6f, \"idle_cpu_seconds\": %.6f}\n",
           (unsigned long long)messages, (double)(stop - start) / 1e9, (unsigned long long)errors,
           (unsigned long long)in_flight, percentile_us(0.50), percentile_us(0.99),
           (double)(own_after - own_before) / 1e9, (double)(server_after - server_before) / 1e9, connect_seconds,
           (unsigned long long)fewest, (unsigned long long)most, answered, pss_before, pss_after, idle_seconds, idle_cpu_seconds);
    return 0;
}
