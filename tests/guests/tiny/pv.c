/* The PV build: everything is found through the start-info page (xen/include/public/xen.h). */
#include "tiny.h"

#define VIRT_BASE 0xffffffff80000000ul
#define MACHINE_TO_PHYSICAL ((const uint64_t *)0xffff800000000000ul)
#define PRESENT_WRITABLE_USER 7

struct start_info {
    char magic[32];
    uint64_t pages, shared_info;
    uint64_t flags;
    uint64_t store_frame;
    uint32_t store_port;
    uint64_t console_frame;
    uint32_t console_port;
    uint64_t page_tables, page_table_frames, frame_list, module_start, module_length;
    char command_line[1024];
};

struct platform platform;

/* The loader maps all of the guest's memory in a row from VIRT_BASE. */
static void *frame(uint64_t machine_frame)
{
    return (void *)(VIRT_BASE + (MACHINE_TO_PHYSICAL[machine_frame] << 12));
}

void platform_connect(void *boot)
{
    const struct start_info *info = boot;

    hypercall(HYPERCALL_UPDATE_VA_MAPPING, (unsigned long)&shared_info,
              info->shared_info | PRESENT_WRITABLE_USER, UVMF_INVLPG);
    platform.store = frame(info->store_frame);
    platform.store_port = info->store_port;
    platform.console = frame(info->console_frame);
    platform.console_port = info->console_port;
    platform.command_line = info->command_line;
    platform.can_suspend = 0; /* it would have to make its start-info page again */
}
