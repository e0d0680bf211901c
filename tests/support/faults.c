/* Loaded before the C library into a daemon under test (LD_PRELOAD): what it writes to the database of its state
 * fails, waits, or is the last thing that it does; what it changes in a pool fails; or it ends before a step in any file
 * system. The daemon itself is the one that users get.
 *
 * MGMT_FAULTS is a folder:
 *   hold   while this file is there, what would sync the database waits
 *   rule   `OP N ACTION`: the N-th such operation after this file appeared (0: each one) gets the action
 *          OP      write | sync | any (of these two, on the database) | step (a change of names, or a sync, anywhere) |
 *                  change (whatever can fail for a lack of room or a broken disk, below the folder that PLACE names:
 *                  files and folders made, opened to be made, linked, renamed and removed; lengths, times, data and
 *                  blocks shared, each by whatever call; syncs: it can only fail)
 *          ACTION  errno NUMBER | before | half | after: it fails; the process is killed before it, in the middle of
 *                  it (a write), or when it is done and nobody knows yet (a step: before it)
 *   syncs  a byte for each sync that was begun
 *   place  the folder below which changes count
 *   seen   a line for each change that a rule was there for: what, and of which path
 *
 * What the program asks the kernel for without the C library (FICLONE, copy_file_range, files without a name) is caught by a
 * filter of seccomp, on x86-64.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Of O_TMPFILE, what other opens of folders have not. */
#define NAMELESS (O_TMPFILE & ~O_DIRECTORY)

enum action { NOTHING, FAIL, BEFORE, HALF, AFTER };

static int in_folder(char *path, const char *name)
{
    const char *folder = getenv("MGMT_FAULTS");
    return folder && snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX;
}

static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length >= 0;
}

static int of_database(int fd)
{
    char path[PATH_MAX];
    const char *name = path_of(fd, path) ? strrchr(path, '/') : NULL;
    return name && strncmp(name, "/state.db", 9) == 0;
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

static int read_rule(char *text, size_t size, struct stat *file)
{
    char path[PATH_MAX];
    memset(text, 0, size);
    if (!in_folder(path, "rule"))
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int known = fstat(fd, file) == 0 && read(fd, text, size - 1) > 0;
    close(fd);
    return known;
}

/* Whether there is a rule for such operations. */
static int is_armed(const char *op)
{
    char text[128];
    struct stat file;
    return read_rule(text, sizeof text, &file) && strncmp(text, op, strlen(op)) == 0;
}

/* What becomes of this operation; *number is the errno of a failure. */
static enum action rule(const char *op, int *number)
{
    char text[128], want[16], action[16];
    struct stat file;
    long n;
    int known = read_rule(text, sizeof text, &file);
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

/* Whether a path is in the folder whose changes count. */
static int in_place(const char *path)
{
    char name[PATH_MAX], place[PATH_MAX];
    if (!in_folder(name, "place"))
        return 0;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, place, sizeof place);
    if (fd >= 0)
        close(fd);
    return length > 0 && strncmp(path, place, length) == 0;
}

static void note_seen(const char *what, const char *path)
{
    char name[PATH_MAX], line[PATH_MAX + 64];
    if (!in_folder(name, "seen"))
        return;
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    int length = snprintf(line, sizeof line, "%s %s\n", what, path);
    syscall(SYS_write, fd, line, length);
    close(fd);
}

/* Whether this change fails; errno says how. */
static int change_fails(const char *what, const char *path)
{
    int number, before = errno;
    if (!in_place(path)) {
        errno = before;
        return 0;
    }
    enum action action = rule("change", &number);
    if (is_armed("change"))
        note_seen(what, path);
    errno = action == FAIL ? number : before;
    return action == FAIL;
}

static int file_change_fails(const char *what, int fd)
{
    char path[PATH_MAX];
    return getenv("MGMT_FAULTS") && path_of(fd, path) && change_fails(what, path);
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
    if (file_change_fails("sync", fd))
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
    if (file_change_fails("write", fd))
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
    if (file_change_fails("write", fd))
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

int ftruncate64(int fd, off64_t length)
{
    return file_change_fails("length", fd) ? -1 : syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int futimens(int fd, const struct timespec times[2])
{
    return file_change_fails("time", fd) ? -1 : syscall(SYS_utimensat, fd, NULL, times, 0);
}

int rename(const char *from, const char *to)
{
    step();
    return change_fails("rename", to) ? -1 : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    step();
    return change_fails("unlink", path) ? -1 : syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    step();
    return change_fails("link", to) ? -1 : syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    return change_fails("mkdir", path) ? -1 : syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int rmdir(const char *path)
{
    return change_fails("rmdir", path) ? -1 : syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

/* The library's own opens, of its rules, come here as well: they make nothing below the place. */
static int open_with(const char *path, int flags, va_list more)
{
    mode_t mode = flags & (O_CREAT | NAMELESS) ? va_arg(more, mode_t) : 0;
    if (flags & O_CREAT && change_fails("create", path))
        return -1;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int fd = open_with(path, flags, more);
    va_end(more);
    return fd;
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int fd = open_with(path, flags, more);
    va_end(more);
    return fd;
}

#ifdef __x86_64__
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <ucontext.h>

/* Above a file descriptor, where the kernel looks away: this call is the library's own, and passes. */
#define OURS 0x4d474d54ull

static long ours(greg_t *r)
{
    return syscall(r[REG_RAX], (uint64_t)(uint32_t)r[REG_RDI] | OURS << 32, r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8],
                   r[REG_R9]);
}

static void caught(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    int before = errno, fails;
    r[REG_RAX] = info->si_syscall;
    switch (info->si_syscall) {
    case SYS_ioctl: fails = file_change_fails("clone", r[REG_RDI]); break;
    case SYS_copy_file_range: fails = file_change_fails("copy", r[REG_RDX]); break;
    default: fails = change_fails("nameless", (const char *)r[REG_RSI]); break;
    }
    long result = fails ? -1 : ours(r);
    r[REG_RAX] = result == -1 ? -errno : result;
    errno = before;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, field)
#define ARGUMENT(n, half) (offsetof(struct seccomp_data, args) + 8 * (n) + 4 * (half))
#define IF(test, value, yes, no) BPF_JUMP(BPF_JMP | (test) | BPF_K, value, yes, no)

__attribute__((constructor)) static void catch(void)
{
    struct sock_filter filter[] = {
        /*  0 */ LOAD(offsetof(struct seccomp_data, arch)),
        /*  1 */ IF(BPF_JEQ, AUDIT_ARCH_X86_64, 0, 11),
        /*  2 */ LOAD(offsetof(struct seccomp_data, nr)),
        /*  3 */ IF(BPF_JEQ, SYS_copy_file_range, 6, 0),
        /*  4 */ IF(BPF_JEQ, SYS_ioctl, 0, 2),
        /*  5 */ LOAD(ARGUMENT(1, 0)),
        /*  6 */ IF(BPF_JEQ, FICLONE, 3, 6),
        /*  7 */ IF(BPF_JEQ, SYS_openat, 0, 5),
        /*  8 */ LOAD(ARGUMENT(2, 0)),
        /*  9 */ IF(BPF_JSET, NAMELESS, 0, 3),
        /* 10 */ LOAD(ARGUMENT(0, 1)),
        /* 11 */ IF(BPF_JEQ, OURS, 1, 0),
        /* 12 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        /* 13 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER };
    char place[PATH_MAX];
    if (!in_folder(place, "place") || access(place, F_OK) != 0)
        return;
    if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        perror("faults: no filter");
}
#endif
