/* Messages over xenstore's ring (docs/misc/xenstore-ring.txt and xenstore.txt in Xen's source). */
#include "tiny.h"

static char payload[XENSTORE_PAYLOAD_MAX + 1];

static void send(const void *bytes, size_t count)
{
    struct xenstore_ring *ring = platform.store;
    const uint8_t *byte = bytes;

    while (count--) {
        while (ring->request_producer - ring->request_consumer == XENSTORE_RING_SIZE) {
            notify(platform.store_port);
            wait_for(platform.store_port, 0);
        }
        __sync_synchronize();
        ring->requests[ring->request_producer % XENSTORE_RING_SIZE] = *byte++;
        __sync_synchronize();
        ring->request_producer++;
    }
}

static void receive(void *bytes, size_t count)
{
    struct xenstore_ring *ring = platform.store;
    uint8_t *byte = bytes;

    while (count--) {
        while (!store_has_message()) {
            notify(platform.store_port);
            wait_for(platform.store_port, 0);
        }
        __sync_synchronize();
        *byte++ = ring->replies[ring->reply_consumer % XENSTORE_RING_SIZE];
        __sync_synchronize();
        ring->reply_consumer++;
    }
    notify(platform.store_port);
}

/* A path with its NUL, and, where there is one, `rest` of `rest_length` bytes. */
static void request(uint32_t type, const char *path, const char *rest, size_t rest_length)
{
    struct xenstore_header header = {type, 0, 0, (uint32_t)(length(path) + 1 + rest_length)};

    send(&header, sizeof(header));
    send(path, length(path) + 1);
    send(rest, rest_length);
    notify(platform.store_port);
}

void store_write(const char *path, const char *value)
{
    request(XS_WRITE, path, value, length(value));
}

void store_watch(const char *path)
{
    request(XS_WATCH, path, "", 1); /* an empty token, with its NUL */
}

void store_ask(const char *path)
{
    request(XS_READ, path, "", 0);
}

int store_has_message(void)
{
    return platform.store->reply_producer != platform.store->reply_consumer;
}

uint32_t store_next(const char **text)
{
    struct xenstore_header header;
    char beyond;

    receive(&header, sizeof(header));
    size_t kept = header.length < XENSTORE_PAYLOAD_MAX ? header.length : XENSTORE_PAYLOAD_MAX;
    receive(payload, kept);
    for (size_t i = kept; i < header.length; i++)
        receive(&beyond, 1);
    payload[kept] = 0;
    *text = payload;
    return header.type;
}
