/* Time, events and the end: the calls into the hypervisor that PV and PVH share. */
#include "tiny.h"

struct shared_info shared_info __attribute__((aligned(4096)));

static uint64_t timestamp(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

uint64_t now(void)
{
    const volatile struct vcpu_time *time = &shared_info.vcpu[0].time;
    uint32_t version;
    uint64_t ticks, ns;

    do {
        version = time->version;
        __sync_synchronize();
        ticks = timestamp() - time->tsc_timestamp;
        if (time->tsc_shift < 0)
            ticks >>= -time->tsc_shift;
        else
            ticks <<= time->tsc_shift;
        /* ticks * mul / 2^32, in two halves: the product may need 96 bits */
        ns = (ticks >> 32) * time->tsc_to_system_mul;
        ns += (ticks & 0xffffffff) * time->tsc_to_system_mul >> 32;
        ns += time->system_time;
        __sync_synchronize();
    } while ((version & 1) || version != time->version);
    return ns;
}

void notify(uint32_t port)
{
    hypercall(HYPERCALL_EVENT_CHANNEL_OP, EVTCHNOP_SEND, (unsigned long)&port, 0);
}

void wait_for(uint32_t port, uint64_t deadline)
{
    struct sched_poll poll = {&port, 1, deadline};
    const unsigned bits = 8 * sizeof(unsigned long);

    hypercall(HYPERCALL_SCHED_OP, SCHEDOP_POLL, (unsigned long)&poll, 0);
    __sync_fetch_and_and(&shared_info.pending[port / bits], ~(1ul << port % bits));
}

void shut_down(enum shutdown_reason reason)
{
    uint32_t argument = reason;

    hypercall(HYPERCALL_SCHED_OP, SCHEDOP_SHUTDOWN, (unsigned long)&argument, 0);
}
