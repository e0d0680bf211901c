/* The PVH build: rings and ports are HVM parameters, all addresses physical, no paging. */
#include "tiny.h"

#define CPUID_XEN_FIRST 0x40000000u
#define CPUID_XEN_LAST 0x40010000u
#define CPUID_XEN_STEP 0x100u
#define SIGNATURE_XENV 0x566e6558u /* the first four bytes of "XenVMMXenVMM" */
#define ANY_VECTOR 0xf3            /* never taken: interrupts stay off */

/* xen/include/public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line;
};

struct hvm_param {
    uint16_t domain, pad;
    uint32_t index;
    uint64_t value;
};

struct add_to_physmap {
    uint16_t domain, size;
    uint32_t space, index, frame;
};

struct platform platform;
extern uint8_t hypercall_page[];

static uint64_t parameter(uint32_t index)
{
    struct hvm_param param = {DOMID_SELF, 0, index, 0};

    hypercall(HYPERCALL_HVM_OP, HVMOP_GET_PARAM, (unsigned long)&param, 0);
    return param.value;
}

static void set_parameter(uint32_t index, uint64_t value)
{
    struct hvm_param param = {DOMID_SELF, 0, index, value};

    hypercall(HYPERCALL_HVM_OP, HVMOP_SET_PARAM, (unsigned long)&param, 0);
}

static void *frame(uint64_t number)
{
    return (void *)((unsigned long)number << 12);
}

static void find_hypercall_page(void)
{
    uint32_t leaf, a, b, c, d;

    for (leaf = CPUID_XEN_FIRST; leaf < CPUID_XEN_LAST; leaf += CPUID_XEN_STEP) {
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(0));
        if (b == SIGNATURE_XENV)
            break;
    }
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf + 2), "c"(0));
    __asm__ volatile("wrmsr" : : "c"(b), "a"((uint32_t)hypercall_page), "d"(0) : "memory");
}

void platform_connect(void *boot)
{
    struct add_to_physmap map = {DOMID_SELF, 0, MAPSPACE_SHARED_INFO, 0, (uint32_t)&shared_info >> 12};

    if (boot) {
        find_hypercall_page();
        platform.command_line = (const char *)(unsigned long)((struct hvm_start_info *)boot)->command_line;
        if (!platform.command_line)
            platform.command_line = "";
    }
    hypercall(HYPERCALL_MEMORY_OP, MEMORY_ADD_TO_PHYSMAP, (unsigned long)&map, 0);
    /* libxl takes a guest without it for one that knows nothing of control/shutdown */
    set_parameter(HVM_PARAM_CALLBACK_IRQ, CALLBACK_TYPE_VECTOR | ANY_VECTOR);
    platform.store = frame(parameter(HVM_PARAM_STORE_PFN));
    platform.store_port = (uint32_t)parameter(HVM_PARAM_STORE_EVTCHN);
    platform.console = frame(parameter(HVM_PARAM_CONSOLE_PFN));
    platform.console_port = (uint32_t)parameter(HVM_PARAM_CONSOLE_EVTCHN);
    platform.can_suspend = 1;
}
