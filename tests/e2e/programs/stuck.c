// stuck SECONDS: a process whose memory-map lock is held for good, as any workload with /dev/fuse can make one.
//
// It says on standard output "<pid> <N>" once the lock is held, where N is the FUSE connection; `echo 1 > /sys/fs/fuse/connections/N/abort`
// frees it: then it says "freed" and lives on, healthy. Whoever cannot read /proc/<pid>/cmdline, maps and smaps meanwhile waits as
// long, so this ends after SECONDS, or when standard input or whoever started it ends, whichever comes first.
//
// Three processes: the guardian, which mounts, watches and always aborts; the server, a child that answers two reads with EIO and no
// third; the victim, another child, which maps the file. All are killed by the kernel when the guardian ends.
#define _GNU_SOURCE
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define FILE_NODE 2

static void die(const char *what) {
    perror(what);
    _exit(1);
}

static void end_with_parent(void) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL)) die("prctl");
}

// The server: one directory with one file of one page.

static void attributes(fuse_ino_t node, struct stat *st) {
    memset(st, 0, sizeof *st);
    st->st_ino = node;
    st->st_mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
    st->st_nlink = 1;
    st->st_size = node == FILE_NODE ? PAGE : 0;
}

static void on_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    struct stat st;
    attributes(node, &st);
    fuse_reply_attr(request, &st, 1000);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param entry = {.ino = FILE_NODE, .attr_timeout = 1000, .entry_timeout = 1000};
    attributes(FILE_NODE, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void on_open(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) { fuse_reply_open(request, file); }

static void on_read(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *file) {
    static int n_reads;
    // The first two faults drop the lock while they wait for the page, and end in SIGBUS or a retry; the third waits with the lock held.
    if (++n_reads <= 2) fuse_reply_err(request, EIO);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read};

static void serve(int device) {
    end_with_parent();
    char *arguments[] = {"stuck", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    char mountpoint[32];
    snprintf(mountpoint, sizeof mountpoint, "/dev/fd/%d", device); // already mounted: libfuse takes the descriptor
    if (!session || fuse_session_mount(session, mountpoint)) die("fuse_session_mount");
    _exit(fuse_session_loop(session) != 0);
}

// The victim.

static char *page;

static void *touch(void *unused) {
    return (void *)(long)*(volatile char *)page;
}

static void *protect(void *unused) {
    syscall(SYS_mprotect, page, PAGE, PROT_READ | PROT_WRITE);
    return NULL;
}
