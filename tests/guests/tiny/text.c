/* The little of string handling that is needed; there is no C library here. */
#include "tiny.h"

size_t length(const char *text)
{
    size_t count = 0;

    while (text[count])
        count++;
    return count;
}

int equal(const char *left, const char *right)
{
    while (*left && *left == *right)
        left++, right++;
    return *left == *right;
}

static int starts_with(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return 0;
    return 1;
}

int option(const char *line, const char *key, char *value, size_t size)
{
    size_t key_length = length(key), copied = 0;

    while (*line) {
        while (*line == ' ')
            line++;
        char after = starts_with(line, key) ? line[key_length] : 'x';
        if (after == '=' || after == ' ' || after == 0) {
            line += key_length + (after == '=');
            while (*line && *line != ' ' && copied + 1 < size)
                value[copied++] = *line++;
            value[copied] = 0;
            return 1;
        }
        while (*line && *line != ' ')
            line++;
    }
    return 0;
}
