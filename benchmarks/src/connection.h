/* A connection of load.c, and how its answer is read and judged. */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "text.h"
#include "times.h"

enum { STAMP_DIGITS = 19, PIECE = 262144, LONGEST_HEAD = 65536 };

typedef enum { IDLE, HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER } Phase;
typedef enum { DONE, NO_CONNECTION, BROKEN, BAD_STATUS, LOST_PIECES, OUT_OF_ORDER, NO_END, HUNG, OUTCOMES } Outcome;
static const char *const OUTCOME_NAMES[] = {"done",        "no_connection", "broken", "bad_status",
                                            "lost_pieces", "out_of_order",  "no_end", "hung"};

typedef struct {
    int fd;
    Phase phase;
    bool has_done, is_out_of_order;
    int status;
    size_t sent, left; /* bytes of the request that went out; bytes of the body or chunk that are to come */
    long pieces;
    Text head, line, own; /* `own` is the request with this connection's number in it */
    uint64_t due_ns, first_ns, arrived_ns, stamp; /* the last two: of the event before */
} Connection;

static long expected_pieces;
static long outcomes[OUTCOMES];
static Times latencies, first_events, transits, gaps;

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
    else if (c->is_out_of_order)
        finish(c, OUT_OF_ORDER);
    else if (expected_pieces && !c->has_done)
        finish(c, NO_END);
    else {
        add_time(&latencies, c->due_ns, now);
        if (c->first_ns)
            add_time(&first_events, c->due_ns, c->first_ns);
        finish(c, DONE);
    }
}

/*
 * Reads one line of a stream: counts and times its stamps. One that stands in two fields of an event counts once. Each
 * has to be later than those of the events before: an event that comes again, or too late, is not.
 */
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
        c->is_out_of_order |= stamp <= c->stamp;
        c->stamp = stamp;
        add_time(&transits, stamp, now);
    }
    if (last && c->arrived_ns)
        add_time(&gaps, c->arrived_ns, now);
    if (last)
        c->arrived_ns = now;
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
