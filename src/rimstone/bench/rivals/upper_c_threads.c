/* The upper-case server in C without an IO model: a thread a connection, each in a blocking recv, toupper, send. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void *talk(void *argument) {
    int conn = (int)(intptr_t)argument;
    char data[1024];
    ssize_t n;
    while ((n = recv(conn, data, sizeof data, 0)) > 0) {
        for (ssize_t j = 0; j < n; j++) data[j] = (char)toupper((unsigned char)data[j]);
        if (send(conn, data, (size_t)n, MSG_NOSIGNAL) < 0) break;
    }
    close(conn);
    return 0;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    socklen_t length = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (bind(server, (struct sockaddr *)&address, length) || listen(server, 4096)) return perror("bind, listen"), 1;
    getsockname(server, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (1) {
        pthread_t thread;
        int conn = accept(server, 0, 0);
        if (conn < 0) continue;
        setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (pthread_create(&thread, 0, talk, (void *)(intptr_t)conn)) close(conn);
        else pthread_detach(thread);
    }
}
