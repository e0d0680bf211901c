/* Text to the console's ring. What does not fit is lost: without a reader the guest must not hang. */
#include "tiny.h"

void print(const char *text)
{
    struct console_ring *ring = platform.console;
    uint32_t producer = ring->out_producer;

    while (*text && producer - ring->out_consumer < CONSOLE_OUT_SIZE)
        ring->out[producer++ % CONSOLE_OUT_SIZE] = (uint8_t)*text++;
    __sync_synchronize();
    ring->out_producer = producer;
    notify(platform.console_port);
}
