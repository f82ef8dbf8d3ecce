/* Lists of times in microseconds, and their percentiles. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    double *values;
    size_t count, capacity;
} Times;

static void add_time(Times *times, uint64_t from_ns, uint64_t to_ns)
{
    if (times->count == times->capacity) {
        times->capacity = 2 * times->capacity + 1024;
        times->values = realloc(times->values, times->capacity * sizeof *times->values);
        if (!times->values)
            abort();
    }
    times->values[times->count++] = to_ns > from_ns ? (double)(to_ns - from_ns) / 1000 : 0;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Sorts `times` and prints ,"name":{"p50":...}. */
static void print_times(const char *name, Times *times)
{
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
    qsort(times->values, times->count, sizeof *times->values, compare);
    printf(",\"%s\":", name);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        double value = times->count ? times->values[(size_t)(points[i].share * (double)(times->count - 1))] : 0;
        printf("%s\"%s\":%.1f", i ? "," : "{", points[i].name, value);
    }
    printf("}");
}
