/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls that answer badly, for LD_PRELOAD: a test sets `faults` while a kernel runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct {
    long on;            /* nothing below counts while 0 */
    long most;          /* bytes that a pread or pwrite moves at the most; 0: no limit */
    long interrupt;     /* every n-th call is interrupted first */
    long read_error, read_at;   /* errno for reads that touch this byte */
    long ends_at;       /* reads find the file to end here */
    long write_error, write_at;
    long write_nothing; /* pwrite answers 0 */
    long seek;          /* errno of SEEK_DATA */
    long seek_hole;     /* errno of SEEK_HOLE; -1: it answers its own start */
    long punch, zero_range, zeroout;    /* errno */
} faults;
struct {
    long pread, pwrite, seek, seek_hole, punch, zero_range, zeroout, interrupted;
} calls;

static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static off_t (*real_lseek)(int, off_t, int);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_ioctl)(int, unsigned long, void *);

__attribute__((constructor)) static void find(void)
{
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_lseek = dlsym(RTLD_NEXT, "lseek64");
    real_fallocate = dlsym(RTLD_NEXT, "fallocate64");
    real_ioctl = dlsym(RTLD_NEXT, "ioctl");
}

static int fails(long error)
{
    static long count;
    if (!faults.on)
        return 0;
    if (faults.interrupt && ++count % faults.interrupt == 0) {
        calls.interrupted++;
        error = EINTR;
    }
    errno = error;
    return error != 0;
}

static int touches(long at, off_t offset, size_t size)
{
    return at >= offset && at < offset + (off_t)size;
}

static size_t limited(size_t size)
{
    return faults.on && faults.most && size > (size_t)faults.most ? (size_t)faults.most : size;
}

ssize_t pread64(int fd, void *buffer, size_t size, off_t offset)
{
    size = limited(size);
    calls.pread += faults.on;
    if (fails(touches(faults.read_at, offset, size) ? faults.read_error : 0))
        return -1;
    if (faults.on && faults.ends_at && offset + (off_t)size > faults.ends_at)
        size = offset < faults.ends_at ? faults.ends_at - offset : 0;
    return real_pread(fd, buffer, size, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t size, off_t offset)
{
    size = limited(size);
    calls.pwrite += faults.on;
    if (fails(touches(faults.write_at, offset, size) ? faults.write_error : 0))
        return -1;
    if (faults.on && faults.write_nothing)
        return 0;
    return real_pwrite(fd, buffer, size, offset);
}

off_t lseek64(int fd, off_t offset, int whence)
{
    if (faults.on && whence == SEEK_DATA) {
        calls.seek++;
        if (faults.seek) {
            errno = faults.seek;
            return -1;
        }
    }
    if (faults.on && whence == SEEK_HOLE) {
        calls.seek_hole++;
        if (faults.seek_hole == -1)
            return offset;
        if (faults.seek_hole) {
            errno = faults.seek_hole;
            return -1;
        }
    }
    return real_lseek(fd, offset, whence);
}

int fallocate64(int fd, int mode, off_t offset, off_t length)
{
    int punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
    if (punch)
        calls.punch += faults.on;
    else
        calls.zero_range += faults.on;
    if (fails(punch ? faults.punch : faults.zero_range))
        return -1;
    return real_fallocate(fd, mode, offset, length);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    calls.zeroout += faults.on;
    if (fails(faults.zeroout))
        return -1;
    return real_ioctl(fd, request, argument);
}

ssize_t pread(int, void *, size_t, off_t) __attribute__((alias("pread64")));
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
off_t lseek(int, off_t, int) __attribute__((alias("lseek64")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
