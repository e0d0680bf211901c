/* The parts of the tiny guest, and what they know of each other. */
#ifndef TINY_H
#define TINY_H

#include <stddef.h>
#include <stdint.h>

#include "xen.h"

/* What differs between PV and PVH: pv.c or pvh.c fills this in. */
struct platform {
    struct xenstore_ring *store;
    uint32_t store_port;
    struct console_ring *console;
    uint32_t console_port;
    const char *command_line;
    int can_suspend;
};

extern struct platform platform;
extern struct shared_info shared_info; /* a page of our own, over which Xen's is mapped */

/* Finds rings, ports and command line; `boot` is what the loader passed. Again after a resume, with 0. */
void platform_connect(void *boot);

/* pv.S, pvh.S */
long hypercall(unsigned long number, unsigned long first, unsigned long second, unsigned long third);

/* events.c */
uint64_t now(void); /* ns since boot */
void notify(uint32_t port);
void wait_for(uint32_t port, uint64_t deadline); /* till an event or system time `deadline`; 0 = no deadline */
void shut_down(enum shutdown_reason reason);

/* console.c */
void print(const char *text);

/* xenstore.c: paths are relative to the domain's own folder */
void store_write(const char *path, const char *value);
void store_watch(const char *path);
int store_has_message(void);
/* The next message's type. Its payload ends with a NUL of ours and stays till the next call. */
uint32_t store_next(const char **payload);
void store_ask(const char *path); /* the answer is a message of type XS_READ */

/* text.c */
size_t length(const char *text);
int equal(const char *left, const char *right);
/* The value of `key=VALUE` in `line` in `value` (cut to `size`), or of a bare `key` as ""; 0 if it is not there. */
int option(const char *line, const char *key, char *value, size_t size);

#endif
