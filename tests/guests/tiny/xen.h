/*
 * What the tiny guest uses of Xen's public interface: numbers and layouts as in xen/include/public, where each
 * comment says in which file. Nothing else of Xen is needed to build it.
 */
#ifndef TINY_XEN_H
#define TINY_XEN_H

#include <stdint.h>

/* xen.h */
#define HYPERCALL_MEMORY_OP 12
#define HYPERCALL_UPDATE_VA_MAPPING 14
#define HYPERCALL_SCHED_OP 29
#define HYPERCALL_EVENT_CHANNEL_OP 32
#define HYPERCALL_HVM_OP 34
#define DOMID_SELF 0x7ff0
#define UVMF_INVLPG 2

struct vcpu_time {
    uint32_t version; /* odd while Xen writes */
    uint32_t pad;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* ns since boot, at tsc_timestamp */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint16_t pad2;
};

struct vcpu_info {
    uint8_t upcall[32]; /* what an upcall handler needs; there is none here */
    struct vcpu_time time;
};

struct shared_info {
    struct vcpu_info vcpu[32];
    unsigned long pending[8 * sizeof(unsigned long)];
};

/* sched.h */
#define SCHEDOP_SHUTDOWN 2
#define SCHEDOP_POLL 3
enum shutdown_reason { SHUTDOWN_POWEROFF = 0, SHUTDOWN_REBOOT = 1, SHUTDOWN_SUSPEND = 2, SHUTDOWN_CRASH = 3 };

struct sched_poll {
    const uint32_t *ports;
    uint32_t count;
    uint64_t timeout; /* system time; 0 = none */
};

/* event_channel.h */
#define EVTCHNOP_SEND 4

/* memory.h */
#define MEMORY_ADD_TO_PHYSMAP 7
#define MAPSPACE_SHARED_INFO 0

/* hvm/hvm_op.h, hvm/params.h */
#define HVMOP_SET_PARAM 0
#define HVMOP_GET_PARAM 1
#define HVM_PARAM_CALLBACK_IRQ 0
#define HVM_PARAM_STORE_PFN 1
#define HVM_PARAM_STORE_EVTCHN 2
#define HVM_PARAM_CONSOLE_PFN 17
#define HVM_PARAM_CONSOLE_EVTCHN 18
#define CALLBACK_TYPE_VECTOR (2ull << 56)

/* io/xs_wire.h */
#define XS_READ 2
#define XS_WATCH 4
#define XS_WRITE 11
#define XS_WATCH_EVENT 15
#define XS_ERROR 16
#define XENSTORE_RING_SIZE 1024
#define XENSTORE_PAYLOAD_MAX 4096

struct xenstore_header {
    uint32_t type, request, transaction, length;
};

struct xenstore_ring {
    uint8_t requests[XENSTORE_RING_SIZE], replies[XENSTORE_RING_SIZE];
    volatile uint32_t request_consumer, request_producer;
    volatile uint32_t reply_consumer, reply_producer;
};

/* io/console.h */
#define CONSOLE_OUT_SIZE 2048

struct console_ring {
    uint8_t in[1024], out[CONSOLE_OUT_SIZE];
    volatile uint32_t in_consumer, in_producer;
    volatile uint32_t out_consumer, out_producer;
};

#endif
