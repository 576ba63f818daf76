/* The upper-case server in C, as in the textbooks: one thread, epoll, level-triggered, recv, toupper, send. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    socklen_t length = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), one = 1;
    if (bind(server, (struct sockaddr *)&address, length) || listen(server, 4096)) return perror("bind, listen"), 1;
    getsockname(server, (struct sockaddr *)&address, &length);
    epoll_ctl(poll, EPOLL_CTL_ADD, server, &(struct epoll_event){.events = EPOLLIN, .data.fd = server});
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (1) {
        struct epoll_event events[1024];
        int count = epoll_wait(poll, events, 1024, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == server) {
                int conn = accept4(server, 0, 0, SOCK_NONBLOCK);
                if (conn < 0) continue;
                setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(poll, EPOLL_CTL_ADD, conn, &(struct epoll_event){.events = EPOLLIN, .data.fd = conn});
                continue;
            }
            char data[1024];
            ssize_t n = recv(fd, data, sizeof data, 0);
            for (ssize_t j = 0; j < n; j++) data[j] = (char)toupper((unsigned char)data[j]);
            if (n <= 0 || send(fd, data, (size_t)n, MSG_NOSIGNAL) < 0) close(fd);
        }
    }
}
