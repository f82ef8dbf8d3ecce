/*
 * Sends the same request many times to 127.0.0.1 and checks, times and counts the answers. One thread, epoll.
 *
 *     load -p PORT -b BODY -w WARMUP_BODY [-c CONNECTIONS] [-n REQUESTS] [-r RATE | -g GAP] [-e PIECES]
 *
 *     without -r   closed loop: every connection sends its next request when it has its answer
 *     with -g      the same, but connection number i sends its first request GAP * i microseconds after the start, so
 *                  that streams whose events come at fixed intervals are not in step with each other
 *     with -r      constant rate, requests a second: a request that has to wait for a free connection is timed from
 *                  when it should have gone out, so that a stall is not hidden by the requests it held back
 *
 * Where the body says "%%%%%%%%", each request says a number that no other has: its text was never seen before.
 *
 * It first sends WARMUP_BODY once on every connection, prints "ready" and waits for a line on standard input: the
 * caller reads the CPU clock of what is measured. Then it runs and prints one line of JSON; times are microseconds.
 *
 * An answer counts as done only with status 200, all of its bytes, and exactly PIECES stamps ("@" and 19 digits of the
 * monotonic clock, see mock.c), each later than the one before; one with stamps must also end in [DONE]. Anything else
 * is a failure, by cause. Times from stamp to arrival are `transit_us`, from one event's arrival to the next `gap_us`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"

enum { BATCH = 512 };
static const uint64_t LONGEST_RUN_NS = 60ull * 1000000000u;

typedef struct {
    double per_second, gap_us;
} Pace;

static int port, epoll_fd, connection_count = 16;
static long request_count = 100;
static Pace pace;
static Text request;
static Connection *connections;

static const char MARK[] = "%%%%%%%%";
enum { MARK_SIZE = sizeof MARK - 1, MOST_MARKS = 4096 };
static size_t marks[MOST_MARKS];
static int mark_count;

/* --- one request */

static bool open_connection(Connection *c)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        close(c->fd);
        c->fd = -1;
        return false;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    return true;
}

static void send_request(Connection *c)
{
    const char *data = mark_count ? c->own.data : request.data;
    while (c->sent < request.size) {
        ssize_t sent = send(c->fd, data + c->sent, request.size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            finish(c, BROKEN);
            return;
        }
        if (sent < 0)
            break;
        c->sent += (size_t)sent;
    }
    struct epoll_event event = {.events = EPOLLIN | (c->sent < request.size ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void find_marks(void)
{
    mark_count = 0;
    char *at = request.data;
    while ((at = memmem(at, request.size - (size_t)(at - request.data), MARK, MARK_SIZE)) && mark_count < MOST_MARKS) {
        marks[mark_count++] = (size_t)(at - request.data);
        at += MARK_SIZE;
    }
}

/* Give a connection's own copy of the request the next number. */
static void put_number(Connection *c)
{
    static uint64_t number;
    char digits[MARK_SIZE + 1];
    if (!number)
        number = now_ns() / 1000;
    snprintf(digits, sizeof digits, "%0*lu", MARK_SIZE, (unsigned long)(number++ % 100000000u));
    if (c->own.size != request.size) {
        c->own.size = 0;
        add(&c->own, request.data, request.size);
    }
    for (int i = 0; i < mark_count; i++)
        memcpy(c->own.data + marks[i], digits, MARK_SIZE);
}

static void begin(Connection *c, uint64_t due_ns)
{
    if (mark_count)
        put_number(c);
    c->due_ns = due_ns;
    c->first_ns = c->arrived_ns = c->stamp = 0;
    c->has_done = c->is_out_of_order = false;
    c->pieces = 0;
    c->sent = c->left = c->head.size = c->line.size = 0;
    c->phase = HEAD;
    if (c->fd < 0 && !open_connection(c))
        finish(c, NO_CONNECTION);
    else
        send_request(c);
}

/* --- all of them */

static void wait_for_events(uint64_t until_ns)
{
    static struct epoll_event batch[BATCH];
    uint64_t now = now_ns(), wait = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
    int count = epoll_pwait2(epoll_fd, batch, BATCH, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        Connection *c = batch[i].data.ptr;
        if (c->fd >= 0 && batch[i].events & EPOLLOUT)
            send_request(c);
        if (c->fd >= 0 && batch[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            receive(c);
    }
}

/* When connection `i` may send the next request: by the constant rate, or once its turn to start has come. */
static uint64_t due(int i, long begun, Pace pace, uint64_t started)
{
    double wait_ns = pace.per_second > 0 ? (double)begun * 1e9 / pace.per_second : (double)i * pace.gap_us * 1e3;
    return started + (uint64_t)wait_ns;
}

/* Sends `count` requests and reads their answers. Returns the seconds it took. */
static double run(long count, Pace pace)
{
    uint64_t started = now_ns(), deadline = started + LONGEST_RUN_NS;
    long begun = 0;
    for (;;) {
        bool is_busy = false;
        uint64_t now = now_ns(), soonest = deadline;
        for (int i = 0; i < connection_count; i++) {
            Connection *c = &connections[i];
            if (c->phase == IDLE && begun < count) {
                uint64_t due_ns = due(i, begun, pace, started);
                if (due_ns <= now) {
                    begin(c, pace.per_second > 0 ? due_ns : now);
                    begun++;
                } else if (due_ns < soonest)
                    soonest = due_ns;
            }
            is_busy |= c->phase != IDLE;
        }
        if ((begun == count && !is_busy) || now > deadline)
            break;
        wait_for_events(soonest);
    }
    for (int i = 0; i < connection_count; i++)
        if (connections[i].phase != IDLE)
            finish(&connections[i], HUNG);
    return (double)(now_ns() - started) / 1e9;
}

static void print_results(double seconds)
{
    printf("{\"seconds\":%.6f,\"pieces\":%zu", seconds, transits.count);
    for (int i = 0; i < OUTCOMES; i++)
        printf(",\"%s\":%ld", OUTCOME_NAMES[i], outcomes[i]);
    print_times("latency_us", &latencies);
    print_times("first_event_us", &first_events);
    print_times("transit_us", &transits);
    print_times("gap_us", &gaps);
    printf("}\n");
}

static void use_body(const char *path)
{
    char head[256];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *body = malloc(size + 1);
    if (!body || fread(body, 1, size, file) != size)
        exit(1);
    fclose(file);
    int length = snprintf(head, sizeof head,
                          "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n"
                          "Authorization: Bearer none\r\nUser-Agent: load\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\n\r\n",
                          port, size);
    request.size = 0;
    add(&request, head, (size_t)length);
    add(&request, body, size);
    find_marks();
    free(body);
}

static void warm_up(const char *body)
{
    long pieces = expected_pieces;
    expected_pieces = 0;
    use_body(body);
    run(connection_count, (Pace){0, 0});
    if (outcomes[DONE] != connection_count) {
        fprintf(stderr, "load: %ld of %d warm-up requests were answered\n", outcomes[DONE], connection_count);
        exit(1);
    }
    expected_pieces = pieces;
    memset(outcomes, 0, sizeof outcomes);
    latencies.count = first_events.count = transits.count = gaps.count = 0;
}

int main(int argc, char **argv)
{
    const char *body = NULL, *warm_up_body = NULL;
    for (int option; (option = getopt(argc, argv, "p:b:w:c:n:r:g:e:")) > 0;)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'b': body = optarg; break;
        case 'w': warm_up_body = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'n': request_count = atol(optarg); break;
        case 'r': pace.per_second = atof(optarg); break;
        case 'g': pace.gap_us = atof(optarg); break;
        case 'e': expected_pieces = atol(optarg); break;
        default: return 2;
        }
    if (!port || !body || !warm_up_body || connection_count < 1 || request_count < 1) {
        fprintf(stderr, "usage: load -p PORT -b BODY -w WARMUP_BODY [-c N] [-n N] [-r RATE | -g GAP] [-e PIECES]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    connections = calloc((size_t)connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++)
        connections[i].fd = -1;
    warm_up(warm_up_body);
    use_body(body);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    print_results(run(request_count, pace));
    return 0;
}
