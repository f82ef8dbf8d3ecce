/* Bytes that are added at one end and taken from the other. */

#include <stdlib.h>
#include <string.h>

typedef struct {
    char *data;
    size_t start, end, capacity;
} Buffer;

static void reserve(Buffer *buffer, size_t size)
{
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->end + size <= buffer->capacity)
        return;
    buffer->capacity = 2 * (buffer->end + size);
    buffer->data = realloc(buffer->data, buffer->capacity);
    if (!buffer->data)
        abort();
}

static void append(Buffer *buffer, const char *bytes, size_t size)
{
    reserve(buffer, size);
    memcpy(buffer->data + buffer->end, bytes, size);
    buffer->end += size;
}
