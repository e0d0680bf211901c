/*
 * A guest of a few KiB for tests: it says that it is up, obeys control/shutdown, and does nothing else.
 *
 * Up is: a line `GUEST-UP name=NAME` on its console and `data/ready` = 1 in xenstore. Options on its command line:
 *
 *   mgmt.name=NAME                        the name that it prints
 *   tiny.after=poweroff|reboot|crash      it ends by itself
 *   tiny.delay_ms=N                       so long after it is up (default: at once)
 *   tiny.deaf                             it never looks at control/shutdown
 *
 * Requests in control/shutdown: poweroff, halt, reboot, suspend (PVH only), crash.
 */
#include "tiny.h"

static const struct {
    const char *request;
    enum shutdown_reason reason;
} REQUESTS[] = {
    {"poweroff", SHUTDOWN_POWEROFF}, {"halt", SHUTDOWN_POWEROFF},   {"reboot", SHUTDOWN_REBOOT},
    {"crash", SHUTDOWN_CRASH},       {"suspend", SHUTDOWN_SUSPEND},
};

static int reason_of(const char *request)
{
    for (size_t i = 0; i < sizeof(REQUESTS) / sizeof(REQUESTS[0]); i++)
        if (equal(request, REQUESTS[i].request))
            return (int)REQUESTS[i].reason;
    return -1;
}

static void listen(void)
{
    store_write("control/feature-poweroff", "1");
    store_write("control/feature-reboot", "1");
    if (platform.can_suspend)
        store_write("control/feature-suspend", "1");
    store_watch("control/shutdown");
}

static void obey(const char *request)
{
    int reason = reason_of(request);

    if (reason < 0 || (reason == SHUTDOWN_SUSPEND && !platform.can_suspend))
        return; /* also the empty value, which is our own answer */
    print("GUEST-REQUEST ");
    print(request);
    print("\n");
    store_write("control/shutdown", "");
    shut_down((enum shutdown_reason)reason);
    /* only a suspend comes back: with new rings, and without the watch */
    platform_connect(0);
    print("GUEST-RESUMED\n");
    listen();
}

/* System time at which the guest ends by itself, 0 for never; how is in `reason`. */
static uint64_t own_end(int *reason)
{
    char value[16];
    uint64_t delay = 0;

    *reason = option(platform.command_line, "tiny.after", value, sizeof(value)) ? reason_of(value) : -1;
    if (*reason < 0)
        return 0;
    if (option(platform.command_line, "tiny.delay_ms", value, sizeof(value)))
        for (const char *digit = value; *digit >= '0' && *digit <= '9'; digit++)
            delay = delay * 10 + (uint64_t)(*digit - '0');
    return now() + delay * 1000000;
}

void tiny_main(void *boot)
{
    char name[64] = "";
    const char *payload;
    uint64_t end;
    int reason, deaf;

    platform_connect(boot);
    deaf = option(platform.command_line, "tiny.deaf", name, sizeof(name));
    option(platform.command_line, "mgmt.name", name, sizeof(name));
    if (!deaf)
        listen();
    store_write("data/ready", "1");
    print("GUEST-UP name=");
    print(name);
    print("\n");

    end = own_end(&reason);
    for (;;) {
        if (end && now() >= end)
            shut_down((enum shutdown_reason)reason);
        if (!store_has_message()) {
            wait_for(platform.store_port, end);
            continue;
        }
        switch (store_next(&payload)) {
        case XS_WATCH_EVENT:
            store_ask("control/shutdown");
            break;
        case XS_READ:
            obey(payload);
            break;
        default: /* the answer to a write or to the watch; an error, as long as nobody has made the node */
            break;
        }
    }
}
