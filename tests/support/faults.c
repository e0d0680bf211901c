/* Loaded before the C library into a daemon under test (LD_PRELOAD): what it writes to the database of its state
 * fails, waits, or is the last thing that it does; what it writes to volumes fails; or it ends before a step in any file
 * system. The daemon itself is
 * the one that users get.
 *
 * MGMT_FAULTS is a folder:
 *   hold   while this file is there, what would sync the database waits
 *   rule   `OP N ACTION`: the N-th such operation after this file appeared (0: each one) gets the action
 *          OP      write | sync | any (of these two, on the database) | step (a change of names, or a sync, anywhere) |
 *                  data (a write, a change of length or a sync of a volume's file: it can only fail)
 *          ACTION  errno NUMBER | before | half | after: it fails; the process is killed before it, in the middle of
 *                  it (a write), or when it is done and nobody knows yet (a step: before it)
 *   syncs  a byte for each sync that was begun
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum action { NOTHING, FAIL, BEFORE, HALF, AFTER };

static int in_folder(char *path, const char *name)
{
    const char *folder = getenv("MGMT_FAULTS");
    return folder && snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX;
}

static int of_database(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strncmp(name, "/state.db", 9) == 0;
}

static int of_volume(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strstr(name, ".img");
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether this is the operation that a rule's file waits for: which file, its number and age tell, as numbers are used
 * again. Steps are several threads'. */
static int is_its_turn(const struct stat *file, long n)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    static ino_t armed;
    static struct timespec since;
    static long left;
    pthread_mutex_lock(&one_at_a_time);
    if (file->st_ino != armed || memcmp(&file->st_ctim, &since, sizeof since) != 0) {
        armed = file->st_ino;
        since = file->st_ctim;
        left = n;
    }
    int turn = n == 0 || --left == 0;
    pthread_mutex_unlock(&one_at_a_time);
    return turn;
}

/* What becomes of this operation; *number is the errno of a failure. */
static enum action rule(const char *op, int *number)
{
    char path[PATH_MAX], text[128] = "", want[16], action[16];
    struct stat file;
    long n;
    if (!in_folder(path, "rule"))
        return NOTHING;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NOTHING;
    int known = fstat(fd, &file) == 0 && read(fd, text, sizeof text - 1) > 0;
    close(fd);
    *number = EIO;
    if (!known || sscanf(text, "%15s %ld %15s %d", want, &n, action, number) < 3)
        return NOTHING;
    int any = strcmp(want, "any") == 0 && (strcmp(op, "write") == 0 || strcmp(op, "sync") == 0);
    if ((!any && strcmp(want, op) != 0) || !is_its_turn(&file, n))
        return NOTHING;
    switch (action[0]) {
    case 'e': return FAIL;
    case 'b': return BEFORE;
    case 'h': return HALF;
    default: return AFTER;
    }
}

/* Whether this work on a volume's file fails; errno says how. */
static int data_fails(int fd)
{
    int number;
    if (!of_volume(fd) || rule("data", &number) != FAIL)
        return 0;
    errno = number;
    return 1;
}

static void step(void)
{
    int number;
    if (rule("step", &number) != NOTHING)
        die();
}

static void hold(void)
{
    char path[PATH_MAX];
    struct timespec moment = { 0, 1000000 };
    if (in_folder(path, "syncs")) {
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) {
            syscall(SYS_write, fd, ".", 1);
            close(fd);
        }
    }
    while (in_folder(path, "hold") && access(path, F_OK) == 0)
        nanosleep(&moment, NULL);
}

static int sync_with(long call, int fd)
{
    step();
    if (data_fails(fd))
        return -1;
    if (!of_database(fd))
        return syscall(call, fd);
    int number;
    enum action action = rule("sync", &number);
    hold();
    if (action == FAIL) {
        errno = number;
        return -1;
    }
    if (action == BEFORE || action == HALF)
        die();
    int result = syscall(call, fd);
    if (action == AFTER)
        die();
    return result;
}

int fsync(int fd) { return sync_with(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }

ssize_t write(int fd, const void *bytes, size_t length)
{
    int number;
    if (data_fails(fd))
        return -1;
    if (!of_database(fd))
        return syscall(SYS_write, fd, bytes, length);
    enum action action = rule("write", &number);
    if (action == FAIL) {
        errno = number;
        return -1;
    }
    if (action == BEFORE)
        die();
    if (action == HALF) {
        syscall(SYS_write, fd, bytes, length / 2);
        die();
    }
    ssize_t written = syscall(SYS_write, fd, bytes, length);
    if (action == AFTER)
        die();
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    int number;
    if (data_fails(fd))
        return -1;
    if (!of_database(fd))
        return syscall(SYS_pwrite64, fd, bytes, length, at);
    enum action action = rule("write", &number);
    if (action == FAIL) {
        errno = number;
        return -1;
    }
    if (action == BEFORE)
        die();
    if (action == HALF) {
        syscall(SYS_pwrite64, fd, bytes, length / 2, at);
        die();
    }
    ssize_t written = syscall(SYS_pwrite64, fd, bytes, length, at);
    if (action == AFTER)
        die();
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

int ftruncate64(int fd, off64_t length) { return data_fails(fd) ? -1 : syscall(SYS_ftruncate, fd, length); }

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int rename(const char *from, const char *to)
{
    step();
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    step();
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    step();
    return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}
