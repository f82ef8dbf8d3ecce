/*
 * Sends the same request many times to 127.0.0.1 and checks, times and counts the answers. One thread, epoll.
 *
 *     load -p PORT -b BODY -w WARMUP_BODY [-c CONNECTIONS] [-n REQUESTS] [-r RATE] [-e PIECES]
 *
 *     without -r   closed loop: every connection sends its next request when it has its answer
 *     with -r      constant rate, requests a second: a request that has to wait for a free connection is timed from
 *                  when it should have gone out, so that a stall is not hidden by the requests it held back
 *
 * It first sends WARMUP_BODY once on every connection, prints "ready" and waits for a line on standard input: the
 * caller reads the CPU clock of what is measured. Then it runs and prints one line of JSON; times are microseconds.
 *
 * An answer counts as done only with status 200, all of its bytes, and exactly PIECES stamps ("@" and 19 digits of the
 * monotonic clock, see mock.c); one with stamps must also end in [DONE]. Anything else is a failure, by cause.
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

#include "clock.h"
#include "text.h"
#include "times.h"

enum { BATCH = 512, STAMP_DIGITS = 19, PIECE = 262144, LONGEST_HEAD = 65536 };
static const uint64_t LONGEST_RUN_NS = 60ull * 1000000000u;

typedef enum { IDLE, HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER } Phase;
typedef enum { DONE, NO_CONNECTION, BROKEN, BAD_STATUS, LOST_PIECES, NO_END, HUNG, OUTCOMES } Outcome;
static const char *const OUTCOME_NAMES[] = {"done",        "no_connection", "broken", "bad_status",
                                            "lost_pieces", "no_end",        "hung"};

typedef struct {
    int fd;
    Phase phase;
    bool has_done;
    int status;
    size_t sent, left; /* bytes of the request that went out; bytes of the body or chunk that are to come */
    long pieces;
    Text head, line;
    uint64_t due_ns, first_ns;
} Connection;

static int port, epoll_fd, connection_count = 16;
static long request_count = 100, expected_pieces;
static double rate;
static Text request;
static Connection *connections;
static long outcomes[OUTCOMES];
static Times latencies, first_events, transits;

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

static void finish(Connection *c, Outcome outcome)
{
    outcomes[outcome]++;
    c->phase = IDLE;
    if (outcome == NO_CONNECTION || outcome == BROKEN || outcome == HUNG) {
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
    }
}

/* The answer is whole: judge it. */
static void judge(Connection *c, uint64_t now)
{
    if (c->status != 200) {
        if (!outcomes[BAD_STATUS])
            fprintf(stderr, "load: the first status that is not 200 is %d\n", c->status);
        finish(c, BAD_STATUS);
    } else if (c->pieces != expected_pieces)
        finish(c, LOST_PIECES);
    else if (expected_pieces && !c->has_done)
        finish(c, NO_END);
    else {
        add_time(&latencies, c->due_ns, now);
        if (c->first_ns)
            add_time(&first_events, c->due_ns, c->first_ns);
        finish(c, DONE);
    }
}

static void send_request(Connection *c)
{
    while (c->sent < request.size) {
        ssize_t sent = send(c->fd, request.data + c->sent, request.size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
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

static void begin(Connection *c, uint64_t due_ns)
{
    c->due_ns = due_ns;
    c->first_ns = 0;
    c->has_done = false;
    c->pieces = 0;
    c->sent = c->left = c->head.size = c->line.size = 0;
    c->phase = HEAD;
    if (c->fd < 0 && !open_connection(c))
        finish(c, NO_CONNECTION);
    else
        send_request(c);
}

/* --- its answer */

/* Reads one line of a stream: counts and times its stamps; one that stands in two fields of an event counts once. */
static void read_line(Connection *c, const char *line, uint64_t now)
{
    if (!c->first_ns)
        c->first_ns = now;
    if (!strncmp(line, "data: [DONE]", 12))
        c->has_done = true;
    uint64_t last = 0;
    for (const char *at = strchr(line, '@'); at; at = strchr(at + 1, '@')) {
        if (strspn(at + 1, "0123456789") != STAMP_DIGITS)
            continue;
        uint64_t stamp = strtoull(at + 1, NULL, 10);
        if (stamp == last)
            continue;
        last = stamp;
        c->pieces++;
        add_time(&transits, stamp, now);
    }
}

static void read_body(Connection *c, const char *bytes, size_t size, uint64_t now)
{
    const char *end;
    while (expected_pieces && (end = memchr(bytes, '\n', size))) {
        size_t length = (size_t)(end - bytes);
        add(&c->line, bytes, length);
        if (c->line.size)
            read_line(c, c->line.data, now);
        c->line.size = 0;
        bytes += length + 1;
        size -= length + 1;
    }
    if (expected_pieces)
        add(&c->line, bytes, size);
}

/* The headers are in `head`. Returns how the body is framed, IDLE when it is in no way known here. */
static Phase read_head(Connection *c)
{
    char *length = strcasestr(c->head.data, "\r\ncontent-length:");
    c->status = c->head.size > 12 ? atoi(c->head.data + 9) : 0;
    if (length) {
        c->left = strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
        return BODY;
    }
    return strcasestr(c->head.data, "\r\ntransfer-encoding: chunked") ? CHUNK_SIZE : IDLE;
}

/* Adds to `head` up to the end of the line. Returns the bytes used; `*is_whole` when the end was there. */
static size_t take_line(Connection *c, const char *bytes, size_t size, bool *is_whole)
{
    const char *end = memchr(bytes, '\n', size);
    size_t used = end ? (size_t)(end - bytes) + 1 : size;
    add(&c->head, bytes, used);
    *is_whole = end != NULL;
    return used;
}

static size_t take_data(Connection *c, const char *bytes, size_t size, uint64_t now)
{
    size_t taken = size < c->left ? size : c->left;
    read_body(c, bytes, taken, now);
    c->left -= taken;
    return taken;
}

/* A line of the framing is in `head`: the last one of the headers, a chunk's size, or what ends a chunk or the body. */
static void read_framing(Connection *c, uint64_t now)
{
    if (c->phase == HEAD) {
        if (c->head.size < 4 || strcmp(c->head.data + c->head.size - 4, "\r\n\r\n"))
            return;
        c->phase = read_head(c);
        if (c->phase == IDLE)
            finish(c, BROKEN);
        else if (c->phase == BODY && c->left == 0)
            judge(c, now);
    } else if (c->phase == CHUNK_SIZE) {
        c->left = strtoul(c->head.data, NULL, 16);
        c->phase = c->left ? CHUNK : TRAILER;
    } else if (c->phase == CHUNK_END)
        c->phase = CHUNK_SIZE;
    else
        judge(c, now);
    c->head.size = 0;
}

/* Takes what the current phase can use. Returns the bytes used; the phase is IDLE after the end of the answer. */
static size_t advance(Connection *c, const char *bytes, size_t size, uint64_t now)
{
    if (c->phase == IDLE)
        return size; /* bytes that nobody asked for */
    if (c->phase == BODY || c->phase == CHUNK) {
        size_t used = take_data(c, bytes, size, now);
        if (c->left == 0 && c->phase == BODY)
            judge(c, now);
        else if (c->left == 0)
            c->phase = CHUNK_END;
        return used;
    }
    bool is_whole;
    size_t used = take_line(c, bytes, size, &is_whole);
    if (is_whole)
        read_framing(c, now);
    if (c->head.size > LONGEST_HEAD)
        finish(c, BROKEN);
    return used;
}

static void receive(Connection *c)
{
    static char bytes[PIECE];
    ssize_t got = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 && c->phase != IDLE) {
        finish(c, BROKEN);
    } else if (got <= 0) {
        close(c->fd);
        c->fd = -1;
    } else {
        uint64_t now = now_ns();
        for (size_t used = 0; used < (size_t)got && c->fd >= 0;)
            used += advance(c, bytes + used, (size_t)got - used, now);
    }
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

/* Sends `count` requests, `per_second` of them or, with 0, as fast as answers come. Returns the seconds it took. */
static double run(long count, double per_second)
{
    uint64_t started = now_ns(), deadline = started + LONGEST_RUN_NS;
    long begun = 0;
    for (;;) {
        bool is_busy = false, is_free = false;
        uint64_t now = now_ns(), next = started + (per_second > 0 ? (uint64_t)((double)begun * 1e9 / per_second) : 0);
        for (int i = 0; i < connection_count; i++) {
            Connection *c = &connections[i];
            if (c->phase == IDLE && begun < count && next <= now) {
                begin(c, per_second > 0 ? next : now);
                begun++;
                next = started + (per_second > 0 ? (uint64_t)((double)begun * 1e9 / per_second) : 0);
            }
            is_busy |= c->phase != IDLE;
            is_free |= c->phase == IDLE;
        }
        if ((begun == count && !is_busy) || now > deadline)
            break;
        wait_for_events(is_free && begun < count && next < deadline ? next : deadline);
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
    free(body);
}

static void warm_up(const char *body)
{
    long pieces = expected_pieces;
    expected_pieces = 0;
    use_body(body);
    run(connection_count, 0);
    if (outcomes[DONE] != connection_count) {
        fprintf(stderr, "load: %ld of %d warm-up requests were answered\n", outcomes[DONE], connection_count);
        exit(1);
    }
    expected_pieces = pieces;
    memset(outcomes, 0, sizeof outcomes);
    latencies.count = first_events.count = transits.count = 0;
}

int main(int argc, char **argv)
{
    const char *body = NULL, *warm_up_body = NULL;
    for (int option; (option = getopt(argc, argv, "p:b:w:c:n:r:e:")) > 0;)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'b': body = optarg; break;
        case 'w': warm_up_body = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'n': request_count = atol(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'e': expected_pieces = atol(optarg); break;
        default: return 2;
        }
    if (!port || !body || !warm_up_body || connection_count < 1 || request_count < 1) {
        fprintf(stderr, "usage: load -p PORT -b BODY -w WARMUP_BODY [-c N] [-n N] [-r RATE] [-e PIECES]\n");
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
    print_results(run(request_count, rate));
    return 0;
}
