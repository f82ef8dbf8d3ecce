/*
 * An imitation of vLLM's chat endpoint that costs next to nothing: one thread, epoll, one send() per event.
 *
 *     mock PORT          listens on 127.0.0.1 until it is killed
 *
 * Fields of the request body say what is answered, because a body's fields survive every proxy:
 *
 *     "stream": true               server-sent events, one HTTP chunk each; else one JSON answer
 *     "max_tokens": N              N events that carry text or a piece of a tool call's arguments
 *     "seed": D                    D microseconds before each event, or before the whole answer
 *     "tool_choice": "required"    the answer is a call of `read_file`
 *     "user": "leaked"             the streamed answer is that call as text, as a server without a parser sends it
 *     "user": "reasoning"          the streamed answer is thoughts, and a word at the end
 *     "include_usage": true        an event with the usage before [DONE]
 *
 * Each of the N events holds "@" and the monotonic clock in nanoseconds (19 digits), so that the receiver can time
 * its way and count what arrived. A request without a body, such as /health, gets the list of models.
 * Request bodies need a Content-Length. Linux 5.11 or later, for epoll_pwait2.
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

#include "answers.h"
#include "buffer.h"
#include "clock.h"

enum { LISTENER_BACKLOG = 4096, BATCH = 512, LONGEST_HEAD = 65536, CONTROL_WINDOW = 512 };

enum Form { TEXT, THOUGHT, CALL, LEAKED };

typedef struct Connection {
    int fd;
    bool closes_after, wants_write;
    Buffer in, out;
    /* The answer that is being sent. `event` counts from 0 to `events`; a whole answer is one event. */
    bool is_active, is_stream, with_usage;
    enum Form form;
    long event, events, pieces;
    uint64_t interval_ns, due_ns;
    struct Connection *next, *previous; /* in the ring of active connections */
} Connection;

static int epoll_fd;
static Connection ring = {.next = &ring, .previous = &ring};

/* --- connections */

static void watch(Connection *c, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (c->wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static void activate(Connection *c)
{
    c->is_active = true;
    c->previous = ring.previous;
    c->next = &ring;
    ring.previous->next = c;
    ring.previous = c;
}

static void deactivate(Connection *c)
{
    if (!c->is_active)
        return;
    c->is_active = false;
    c->previous->next = c->next;
    c->next->previous = c->previous;
}

static void close_connection(Connection *c)
{
    deactivate(c);
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c);
}

/* Sends what is waiting. Returns false when the connection is gone. */
static bool flush(Connection *c)
{
    bool is_blocked = false;
    while (c->out.start < c->out.end && !is_blocked) {
        ssize_t sent = send(c->fd, c->out.data + c->out.start, c->out.end - c->out.start, MSG_NOSIGNAL);
        if (sent > 0)
            c->out.start += (size_t)sent;
        else if (sent < 0 && errno == EAGAIN)
            is_blocked = true;
        else if (sent == 0 || errno != EINTR) {
            close_connection(c);
            return false;
        }
    }
    if (is_blocked != c->wants_write) {
        c->wants_write = is_blocked;
        watch(c, EPOLL_CTL_MOD);
    }
    if (c->closes_after && !c->is_active && !is_blocked) {
        close_connection(c);
        return false;
    }
    return true;
}

/* --- answers */

static void append_json(Connection *c, const char *body, size_t size)
{
    char head[160];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
                          "content-type: application/json\r\n\r\n",
                          size);
    append(&c->out, head, (size_t)length);
    append(&c->out, body, size);
}

/* What a stream of each form sends around its pieces: opening events after the role, the last one, how it finishes. */
static const struct {
    const char *opening[2], *piece, *closing, *finish;
} FORMS[] = {
    [TEXT] = {.piece = CONTENT(" @%019llu"), .finish = FINISH("stop")},
    [THOUGHT] = {.piece = DELTA("\"reasoning\":\" @%019llu\""), .closing = CONTENT("Yes."), .finish = FINISH("stop")},
    [CALL] = {{CALL_NAME, ARGUMENTS("{\\\"path\\\": \\\"")},
              ARGUMENTS(" @%019llu"),
              ARGUMENTS("\\\"}"),
              FINISH("tool_calls")},
    [LEAKED] = {{CONTENT("[TOOL_CALLS]read_file[ARGS]"), CONTENT("{\\\"path\\\": \\\"")},
                CONTENT(" @%019llu"),
                CONTENT("\\\"}"),
                FINISH("stop")},
};

static int opening_events(enum Form form)
{
    return FORMS[form].opening[0] ? 2 : 0;
}

static int closing_events(enum Form form)
{
    return FORMS[form].closing ? 1 : 0;
}

/* role, [two opening events], pieces, [closing event], finish, [usage], [DONE] */
static int format_event(const Connection *c, char *text, size_t size)
{
    long before = 1 + opening_events(c->form), after = c->event - before - c->pieces;
    if (c->event == 0)
        return snprintf(text, size, DELTA("\"role\":\"assistant\",\"content\":\"\""));
    if (c->event == c->events - 1)
        return snprintf(text, size, "data: [DONE]\n\n");
    if (c->with_usage && c->event == c->events - 2)
        return snprintf(text, size,
                        CHUNK "],\"usage\":{\"prompt_tokens\":123,\"total_tokens\":%ld,\"completion_tokens\":%ld}}\n\n",
                        123 + c->pieces, c->pieces);
    if (c->event < before)
        return snprintf(text, size, "%s", FORMS[c->form].opening[c->event - 1]);
    if (after < 0)
        return snprintf(text, size, FORMS[c->form].piece, (unsigned long long)now_ns());
    if (after < closing_events(c->form))
        return snprintf(text, size, "%s", FORMS[c->form].closing);
    return snprintf(text, size, "%s", FORMS[c->form].finish);
}

static void append_event(Connection *c)
{
    char text[768], size[16];
    int length = format_event(c, text, sizeof text);
    append(&c->out, size, (size_t)snprintf(size, sizeof size, "%x\r\n", (unsigned)length));
    append(&c->out, text, (size_t)length);
    append(&c->out, "\r\n", 2);
}

/* Sends the next event, or the whole answer. Returns false when the connection is gone. */
static bool step(Connection *c)
{
    if (c->is_stream)
        append_event(c);
    else if (c->form == CALL)
        append_json(c, CALL_ANSWER, sizeof CALL_ANSWER - 1);
    else
        append_json(c, TEXT_ANSWER, sizeof TEXT_ANSWER - 1);
    c->due_ns += c->interval_ns;
    if (++c->event == c->events) {
        if (c->is_stream)
            append(&c->out, "0\r\n\r\n", 5);
        deactivate(c);
    }
    return flush(c);
}

/* --- requests */

static const char *find_value(const char *text, size_t size, const char *key)
{
    const char *found = memmem(text, size, key, strlen(key));
    if (!found)
        return NULL;
    found += strlen(key);
    return found + strspn(found, " :");
}

/* Control fields stand at the body's ends: a search of all of it would cost more than everything else here. */
static const char *control(const char *body, size_t size, const char *key)
{
    size_t window = size < CONTROL_WINDOW ? size : CONTROL_WINDOW;
    const char *value = find_value(body, window, key);
    return value ? value : find_value(body + size - window, window, key);
}

static bool control_is(const char *body, size_t size, const char *key, const char *expected)
{
    const char *value = control(body, size, key);
    return value && !strncmp(value, expected, strlen(expected));
}

static long control_number(const char *body, size_t size, const char *key, long otherwise)
{
    const char *value = control(body, size, key);
    return value ? strtol(value, NULL, 10) : otherwise;
}

static enum Form form_of(const char *body, size_t size)
{
    if (control_is(body, size, "\"tool_choice\"", "\"required\""))
        return CALL;
    if (control_is(body, size, "\"user\"", "\"leaked\""))
        return LEAKED;
    return control_is(body, size, "\"user\"", "\"reasoning\"") ? THOUGHT : TEXT;
}

/* `body` is followed by a zero byte. */
static bool start_answer(Connection *c, const char *body, size_t size)
{
    if (size == 0) {
        append_json(c, MODELS, sizeof MODELS - 1);
        return flush(c);
    }
    c->is_stream = control_is(body, size, "\"stream\"", "true");
    c->form = form_of(body, size);
    c->with_usage = control_is(body, size, "\"include_usage\"", "true");
    c->pieces = control_number(body, size, "\"max_tokens\"", 16);
    c->interval_ns = 1000u * (uint64_t)control_number(body, size, "\"seed\"", 0);
    c->event = 0;
    c->events = c->is_stream ? c->pieces + 3 + opening_events(c->form) + closing_events(c->form) + c->with_usage : 1;
    c->due_ns = now_ns() + c->interval_ns;
    activate(c);
    if (c->is_stream) {
        append(&c->out, STREAM_HEAD, sizeof STREAM_HEAD - 1);
        return flush(c);
    }
    return c->interval_ns || step(c);
}

static size_t header_number(const char *head, size_t size, const char *name)
{
    size_t length = strlen(name);
    const char *end = head + size;
    for (const char *line = head; line && line + length < end; line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
        line += line == head ? 0 : 2;
        if ((size_t)(end - line) > length && !strncasecmp(line, name, length))
            return strtoul(line + length, NULL, 10);
    }
    return 0;
}

/* Starts the answer to the next request, if all of it has come. Returns false when the connection is gone. */
static bool read_request(Connection *c)
{
    char *head = c->in.data + c->in.start;
    size_t size = c->in.end - c->in.start;
    char *blank = memmem(head, size < LONGEST_HEAD ? size : LONGEST_HEAD, "\r\n\r\n", 4);
    if (!blank)
        return true;
    size_t head_size = (size_t)(blank - head) + 4;
    size_t body_size = header_number(head, head_size, "content-length:");
    if (size < head_size + body_size)
        return true;
    c->closes_after = memmem(head, head_size, "HTTP/1.0", 8) || memmem(head, head_size, "onnection: close", 16);
    char *body = head + head_size, after = body[body_size];
    body[body_size] = 0;
    if (!start_answer(c, body, body_size))
        return false;
    body[body_size] = after;
    c->in.start += head_size + body_size;
    return true;
}

static void receive(Connection *c)
{
    for (;;) {
        reserve(&c->in, 65536 + 1); /* one byte more: read_request() puts a zero behind the body */
        size_t room = c->in.capacity - c->in.end - 1;
        ssize_t got = recv(c->fd, c->in.data + c->in.end, room, 0);
        if (got > 0) {
            c->in.end += (size_t)got;
            if ((size_t)got < room)
                break;
        } else if (got < 0 && errno == EAGAIN)
            break;
        else if (got == 0 || errno != EINTR) {
            close_connection(c);
            return;
        }
    }
    if (!c->is_active)
        read_request(c);
}

/* --- the loop */

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD);
    }
}

static int listen_on(int port)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, LISTENER_BACKLOG)) {
        perror("mock: cannot listen");
        exit(1);
    }
    return listener;
}

/* Sends one event for each active stream that is due, as an engine's step does. Returns when the next is due. */
static uint64_t send_due(void)
{
    uint64_t now = now_ns(), soonest = UINT64_MAX;
    for (Connection *c = ring.next, *next; c != &ring; c = next) {
        next = c->next;
        if (c->wants_write)
            continue;
        if (c->due_ns <= now && (!step(c) || !c->is_active))
            continue;
        if (c->due_ns < soonest)
            soonest = c->due_ns;
    }
    return soonest;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(atoi(argv[1]));
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, batch[BATCH];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        uint64_t due = send_due(), now = now_ns(), wait = due > now ? due - now : 0;
        struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
        int count = epoll_pwait2(epoll_fd, batch, BATCH, due == UINT64_MAX ? NULL : &timeout, NULL);
        for (int i = 0; i < count; i++) {
            Connection *c = batch[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (batch[i].events & (EPOLLERR | EPOLLHUP))
                close_connection(c);
            else if (!(batch[i].events & EPOLLOUT) || flush(c))
                if (batch[i].events & EPOLLIN)
                    receive(c);
        }
    }
}
