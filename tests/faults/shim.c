/* Stands between a process and the disk, loaded with LD_PRELOAD.
 *
 * Calls that change or sync something below the directory $SHIM_DIR are counted. Once armed, the
 * k-th of them fails, or kills the process; and each that succeeds can be recorded in a trace, with
 * its data, for rebuilding what a disk may hold after a power loss. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* The values of these two are known to shim.py. */
enum mode { UNARMED, ONCE, STICKY, SHORT, KILL, SYNC_ONCE, SYNC_KILL };
enum operation { CREATE = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MARK, FAILED_SYNC };

struct record {
    uint32_t operation, name_size;
    uint64_t inode, parent, new_parent, offset, data_size;
};

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_sendfile)(int, int, off_t *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rmdir)(const char *);
static int (*real_mkdir)(const char *, mode_t);

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char root[PATH_MAX];
static size_t root_size;
static int trace = -1;
static enum mode armed = UNARMED;
static int error_number;
static long due, calls, failures;

static void set_up(void) __attribute__((constructor));
static void set_up(void)
{
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_sendfile = dlsym(RTLD_NEXT, "sendfile64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rmdir = dlsym(RTLD_NEXT, "rmdir");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    const char *directory = getenv("SHIM_DIR");
    if (directory != NULL && realpath(directory, root) != NULL)
        root_size = strlen(root);
}

/* ---- what a call is about ---- */

static int is_ours(const char *path)
{
    return root_size > 0 && strncmp(path, root, root_size) == 0 && path[root_size] == '/';
}

/* Write the path of a descriptor to `path`; return whether it is below the directory or it. */
static int of_descriptor(int descriptor, char *path)
{
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (n < 0)
        return 0;
    path[n] = 0;
    return is_ours(path) || (root_size > 0 && strcmp(path, root) == 0);
}

static int of_name(int directory, const char *name, char *path)
{
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char base[PATH_MAX] = "";
        if (directory == AT_FDCWD ? getcwd(base, sizeof base) == NULL
                                  : !of_descriptor(directory, base))
            return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX)
            return 0;
    }
    return is_ours(path);
}

/* The index of the log is rebuilt from the log after a crash: what it holds is of no interest. */
static int is_index(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, "-shm") == 0;
}

static uint64_t inode_of(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 ? status.st_ino : 0;
}

static uint64_t inode_of_descriptor(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

static uint64_t parent_of(const char *path)
{
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    return inode_of(parent);
}

static const char *base_of(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* ---- faults ---- */

enum verdict { PASS, FAIL, HALF };

/* Decide what becomes of the next call. A full disk fails only what can take up space. */
static enum verdict judge(enum operation operation, int takes_space, size_t size)
{
    int is_write = operation == WRITE;
    if ((armed == SHORT && (!is_write || size < 2))
        || ((armed == SYNC_ONCE || armed == SYNC_KILL) && operation != SYNC)
        || (error_number == ENOSPC && !takes_space))
        return PASS;
    calls++;
    if (armed == UNARMED || calls < due)
        return PASS;
    switch (armed) {
    case STICKY:
        break;
    case SHORT: /* half is written, and what comes after it finds no space */
        if (calls == due) {
            failures++;
            return HALF;
        }
        if (calls > due + 1)
            return PASS;
        break;
    case KILL:
    case SYNC_KILL:
        return is_write && size > 1 ? HALF : FAIL;
    default:
        if (calls > due)
            return PASS;
    }
    failures++;
    errno = error_number;
    return FAIL;
}

static void die_if_told(void)
{
    if (armed == KILL || armed == SYNC_KILL)
        kill(getpid(), SIGKILL);
}

/* ---- the trace ---- */

static void put(const void *data, size_t size)
{
    for (const char *at = data; size > 0;) {
        ssize_t n = real_write(trace, at, size);
        if (n <= 0)
            abort();
        at += n;
        size -= (size_t)n;
    }
}

static void note(enum operation operation, uint64_t inode, uint64_t parent, uint64_t new_parent,
                 const char *name, uint64_t offset, const void *data, size_t data_size)
{
    if (trace < 0)
        return;
    int saved = errno;
    struct record record = {operation, (uint32_t)strlen(name), inode, parent, new_parent,
                            offset, data_size};
    put(&record, sizeof record);
    put(name, record.name_size);
    put(data, data_size);
    errno = saved;
}

/* ---- the calls ---- */

static int opened(int directory, const char *name, int flags, mode_t permissions)
{
    char path[PATH_MAX];
    if (!of_name(directory, name, path))
        return real_openat(directory, name, flags, permissions);
    pthread_mutex_lock(&mutex);
    int result = -1, is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    if (judge(CREATE, is_new, 0) == PASS) {
        result = real_openat(directory, name, flags, permissions);
        if (result >= 0 && is_new && !is_index(path))
            note(CREATE, inode_of_descriptor(result), parent_of(path), 0, base_of(path), 0, "", 0);
        if (result >= 0 && !is_new && (flags & O_TRUNC))
            note(TRUNCATE, inode_of_descriptor(result), 0, 0, "", 0, "", 0);
    } else {
        die_if_told();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

#define PERMISSIONS(flags)                                   \
    mode_t permissions = 0;                                  \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                   \
        va_list list;                                        \
        va_start(list, flags);                               \
        permissions = va_arg(list, mode_t);                  \
        va_end(list);                                        \
    }

int open(const char *name, int flags, ...)
{
    PERMISSIONS(flags)
    return opened(AT_FDCWD, name, flags, permissions);
}

int open64(const char *name, int flags, ...)
{
    PERMISSIONS(flags)
    return opened(AT_FDCWD, name, flags, permissions);
}

int openat(int directory, const char *name, int flags, ...)
{
    PERMISSIONS(flags)
    return opened(directory, name, flags, permissions);
}

int openat64(int directory, const char *name, int flags, ...)
{
    PERMISSIONS(flags)
    return opened(directory, name, flags, permissions);
}

static ssize_t written(int descriptor, const void *data, size_t size, off_t offset, int seeks)
{
    char path[PATH_MAX];
    if (root_size == 0 || !of_descriptor(descriptor, path))
        return seeks ? real_pwrite(descriptor, data, size, offset)
                     : real_write(descriptor, data, size);
    pthread_mutex_lock(&mutex);
    ssize_t result = -1;
    /* SQLite makes room for the index a byte a page: one of these steps is like the other. */
    int is_repeated = is_index(path) && seeks && offset % 32768 > 4095;
    enum verdict verdict = is_repeated ? PASS : judge(WRITE, 1, size);
    if (verdict != FAIL) {
        if (!seeks)
            offset = lseek(descriptor, 0, SEEK_CUR);
        if (verdict == HALF)
            size /= 2;
        result = seeks ? real_pwrite(descriptor, data, size, offset)
                       : real_write(descriptor, data, size);
        if (result > 0 && !is_index(path))
            note(WRITE, inode_of_descriptor(descriptor), 0, 0, "", (uint64_t)offset, data,
                 (size_t)result);
    }
    if (verdict != PASS)
        die_if_told();
    pthread_mutex_unlock(&mutex);
    return result;
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    return written(descriptor, data, size, 0, 0);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    return written(descriptor, data, size, offset, 1);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset)
{
    return written(descriptor, data, size, offset, 1);
}

/* As one write of all pieces. */
ssize_t writev(int descriptor, const struct iovec *pieces, int count)
{
    char path[PATH_MAX];
    if (root_size == 0 || !of_descriptor(descriptor, path))
        return real_writev(descriptor, pieces, count);
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += pieces[i].iov_len;
    char *data = malloc(size + 1), *at = data;
    if (data == NULL)
        abort();
    for (int i = 0; i < count; at += pieces[i++].iov_len)
        memcpy(at, pieces[i].iov_base, pieces[i].iov_len);
    ssize_t result = written(descriptor, data, size, 0, 0);
    int saved = errno;
    free(data);
    errno = saved;
    return result;
}

/* Not here: who copies a file falls back on writing. */
ssize_t sendfile64(int to, int from, off_t *offset, size_t size)
{
    char path[PATH_MAX];
    if (root_size == 0 || !of_descriptor(to, path))
        return real_sendfile(to, from, offset, size);
    errno = EINVAL;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    return sendfile64(to, from, offset, size);
}

static int synced(int descriptor, int (*call)(int))
{
    char path[PATH_MAX];
    if (!of_descriptor(descriptor, path) || is_index(path))
        return call(descriptor);
    pthread_mutex_lock(&mutex);
    int result = -1;
    if (judge(SYNC, 1, 0) == PASS) {
        result = call(descriptor);
        if (result == 0)
            note(SYNC, inode_of_descriptor(descriptor), 0, 0, "", 0, "", 0);
    } else {
        die_if_told();
        note(FAILED_SYNC, inode_of_descriptor(descriptor), 0, 0, "", 0, "", 0);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

int fsync(int descriptor)
{
    return synced(descriptor, real_fsync);
}

int fdatasync(int descriptor)
{
    return synced(descriptor, real_fdatasync);
}

int ftruncate64(int descriptor, off_t size)
{
    char path[PATH_MAX];
    if (!of_descriptor(descriptor, path))
        return real_ftruncate(descriptor, size);
    pthread_mutex_lock(&mutex);
    int result = -1;
    if (judge(TRUNCATE, 1, 0) == PASS) {
        result = real_ftruncate(descriptor, size);
        if (result == 0 && !is_index(path))
            note(TRUNCATE, inode_of_descriptor(descriptor), 0, 0, "", (uint64_t)size, "", 0);
    } else {
        die_if_told();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

int ftruncate(int descriptor, off_t size)
{
    return ftruncate64(descriptor, size);
}

int rename(const char *old, const char *new)
{
    char path[PATH_MAX], new_path[PATH_MAX];
    if (!of_name(AT_FDCWD, old, path) || !of_name(AT_FDCWD, new, new_path))
        return real_rename(old, new);
    pthread_mutex_lock(&mutex);
    int result = -1;
    if (judge(RENAME, 1, 0) == PASS) {
        result = real_rename(old, new);
        if (result == 0) {
            const char *name = base_of(new_path);
            note(RENAME, inode_of(new_path), parent_of(path), parent_of(new_path), base_of(path), 0,
                 name, strlen(name));
        }
    } else {
        die_if_told();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

enum removal { FILE_NAME, DIRECTORY_NAME, AT_NAME };

static int removed(enum removal removal, int directory, const char *name, int flags)
{
    char path[PATH_MAX];
    int is_known = of_name(directory, name, path);
    pthread_mutex_lock(&mutex);
    int result = -1;
    if (!is_known || judge(UNLINK, 0, 0) == PASS) {
        result = removal == FILE_NAME        ? real_unlink(name)
                 : removal == DIRECTORY_NAME ? real_rmdir(name)
                                             : real_unlinkat(directory, name, flags);
        if (is_known && result == 0 && !is_index(path))
            note(UNLINK, 0, parent_of(path), 0, base_of(path), 0, "", 0);
    } else {
        die_if_told();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

int unlink(const char *name)
{
    return removed(FILE_NAME, AT_FDCWD, name, 0);
}

int rmdir(const char *name)
{
    return removed(DIRECTORY_NAME, AT_FDCWD, name, 0);
}

int unlinkat(int directory, const char *name, int flags)
{
    return removed(AT_NAME, directory, name, flags);
}

int mkdir(const char *name, mode_t permissions)
{
    char path[PATH_MAX];
    if (!of_name(AT_FDCWD, name, path))
        return real_mkdir(name, permissions);
    pthread_mutex_lock(&mutex);
    int result = -1;
    if (judge(CREATE, 1, 0) == PASS) {
        result = real_mkdir(name, permissions);
        if (result == 0)
            note(CREATE, inode_of(path), parent_of(path), 0, base_of(path), 1, "", 0);
    } else {
        die_if_told();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

/* ---- for the process itself, through ctypes ---- */

void shim_arm(long k, int number, int mode)
{
    pthread_mutex_lock(&mutex);
    due = k;
    error_number = number;
    armed = mode;
    calls = failures = 0;
    pthread_mutex_unlock(&mutex);
}

/* Return how many calls were made to fail. */
long shim_disarm(void)
{
    pthread_mutex_lock(&mutex);
    armed = UNARMED;
    error_number = 0;
    long result = failures;
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Return the calls that were counted since it was armed last. */
long shim_calls(void)
{
    pthread_mutex_lock(&mutex);
    long result = calls;
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Append all calls from now on to the file `path`, which lies outside the directory. */
int shim_trace(const char *path)
{
    if (trace >= 0)
        close(trace);
    trace = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return trace < 0 ? -1 : 0;
}

/* Put what has been promised until here into the trace. */
void shim_mark(const char *text)
{
    pthread_mutex_lock(&mutex);
    note(MARK, 0, 0, 0, "", 0, text, strlen(text));
    pthread_mutex_unlock(&mutex);
}
