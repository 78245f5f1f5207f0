// Usage: stuck DIR SECONDS [exec]. Starts a process that holds its mmap_lock until the program releases it.
// Any container with /dev/fuse can do this.
//
// The program has three processes. The first process, the guardian, mounts a FUSE file system on DIR in a new
// mount namespace. The second process, the server, serves one file, but never answers a certain read of this
// file (see on_read). The third process, the victim, maps the file and reads the mapped page. The page fault
// waits for the server, and holds the victim's mmap_lock while it waits. Each read of the victim's smaps or
// cmdline then blocks, including reads by ps and pgrep. The program prints "<pid> <N>", which are the pid of
// the victim and the number of the FUSE connection.
//
// With the argument "exec", the victim starts a fourth process, named "execs". This process shares the memory
// of the victim, as after vfork, and calls execve, which waits for the victim's mmap_lock. While it waits,
// reads of the stat of "execs" and opens of its smaps block as well. The program then prints
// "<pid> <N> <pid of execs>".
//
// The guardian aborts the FUSE connection as soon as standard input has a byte, but at the latest SECONDS
// after its start. The abort ends the page fault. The victim then continues to run and no longer holds its
// mmap_lock.
//
// At the end of standard input, on SIGTERM, and when the parent of the guardian ends, the guardian aborts the
// connection and exits. The kernel then kills the server and the victim. If the guardian cannot abort the
// connection, the guardian kills the server, because the kernel then aborts the connection.
#define _GNU_SOURCE
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
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
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define FILE_NODE 2

static int third_read[2]; // the server writes a byte here when the third read arrives
static int waiters[2];    // the victim writes the id of its waiting thread here, and then the pid of "execs"

static void die(const char *what) {
    perror(what);
    _exit(1);
}

static pid_t fork_bound(void) {
    pid_t guardian = getpid(), pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL)) die("prctl");
        if (getppid() != guardian) _exit(1);
    }
    return pid;
}

// The code of the server. Its file system consists of one directory and one file, which has one page.

static struct stat attributes(fuse_ino_t node) {
    struct stat st = {.st_ino = node, .st_nlink = 1, .st_mode = S_IFDIR | 0755};
    if (node == FILE_NODE) st.st_mode = S_IFREG | 0644, st.st_size = PAGE;
    return st;
}

static void on_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    struct stat st = attributes(node);
    fuse_reply_attr(request, &st, 1000);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param entry = {
        .ino = FILE_NODE, .attr = attributes(FILE_NODE), .attr_timeout = 1000, .entry_timeout = 1000};
    fuse_reply_entry(request, &entry);
}

static void on_open(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    fuse_reply_open(request, file);
}

// Refuses the first two reads of the file, and never answers the third read. The kernel sends the three reads
// for one page fault of the victim. The first read is readahead. During the second read, the kernel may
// release the mmap_lock. After the second read has failed, the kernel retries the page fault and sends the
// third read. During a retry, the kernel holds the mmap_lock for reading until it has the page (mm/filemap.c,
// filemap_fault and maybe_unlock_mmap_for_io).
static void on_read(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *file) {
    static int n_reads;
    if (++n_reads < 3)
        fuse_reply_err(request, EIO);
    else if (write(third_read[1], "3", 1) != 1)
        die("write");
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read};

static void serve(int device) {
    char *arguments[] = {"stuck", NULL}, mounted[32];
    struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    // For a path like /dev/fd/N, libfuse uses the open file N and mounts nothing. `main` calls mount instead.
    snprintf(mounted, sizeof mounted, "/dev/fd/%d", device);
    if (!session || fuse_session_mount(session, mounted)) die("fuse_session_mount");
    fuse_session_loop(session);
    for (;;) pause(); // reached after an abort; if a child exited here, the guardian would exit, too
}

// The code of the victim.

static char *page; // the one page of the file in the FUSE file system, mapped by the victim
static volatile pid_t protector;

// Returns whether a thread waits. Reads status, because a read of status never blocks on the mmap_lock.
static int is_waiting(pid_t process, pid_t thread) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/task/%d/status", process, thread);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    text[n < 0 ? 0 : n] = 0;
    return strstr(text, "State:\tD") != NULL;
}

static void hold_still(int signal) {
    for (;;) pause();
}

// Reads the mapped page. The FUSE server does not answer, so the page fault waits and holds the mmap_lock for
// reading. After an abort of the FUSE connection, the page fault ends with SIGBUS.
static void *touch(void *unused) {
    return (void *)(long)*(volatile char *)page;
}

// Waits for the mmap_lock for writing. While a writer waits, all later readers of the mmap_lock wait as well.
static void *protect(void *unused) {
    char third;
    pid_t thread = gettid();
    if (read(third_read[0], &third, 1) != 1) die("read");
    if (write(waiters[1], &thread, sizeof thread) != sizeof thread) die("write");
    protector = thread;
    if (mprotect(page, PAGE, PROT_READ | PROT_WRITE)) die("mprotect");
    return NULL;
}

// Takes exec_update_lock for writing, and then waits for the mmap_lock (fs/exec.c, exec_mmap).
static int execute(void *unused) {
    static char *const arguments[] = {"/bin/sleep", "1000000", NULL}, *const environment[] = {NULL};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "execs");
    execve(arguments[0], arguments, environment);
    _exit(1);
}

static void be_stuck(const char *directory, int with_exec) {
    static char stack[65536];
    char path[4096];
    snprintf(path, sizeof path, "%s/file", directory);
    int file = open(path, O_RDONLY);
    if (file < 0) die(path);
    page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    if (page == MAP_FAILED) die("mmap");
    prctl(PR_SET_NAME, "victim");
    signal(SIGBUS, hold_still);
    // The thread that runs `touch` is started last, because this thread blocks while it holds the mmap_lock.
    // The kernel needs the mmap_lock to map the stack of a new thread.
    pthread_t threads[2];
    if (pthread_create(&threads[0], NULL, protect, NULL)) die("pthread_create");
    if (pthread_create(&threads[1], NULL, touch, NULL)) die("pthread_create");
    if (with_exec) {
        while (!protector || !is_waiting(getpid(), protector)) usleep(1000);
        pid_t pid = clone(execute, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
        if (pid < 0 || write(waiters[1], &pid, sizeof pid) != sizeof pid) die("clone");
    }
    for (;;) pause();
}

// The code of the guardian, the process that mounts the file system and aborts its connection.

// Returns the number of the FUSE connection, which is the minor number of the mounted device. Reads the
// number from mountinfo, because stat would send a request to the server, which does not run yet.
static unsigned connection_of(const char *directory) {
    char line[8192], mounted[4096];
    unsigned major, minor, found = 0;
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    while (mounts && fgets(line, sizeof line, mounts))
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, mounted) == 3)
            if (!strcmp(mounted, directory)) found = minor;
    if (!found) die(directory);
    fclose(mounts);
    return found;
}

int main(int argc, char **argv) {
    char options[64], *directory = argv[1];
    if (argc < 3) return 2;
    int with_exec = argc > 3;
    struct timespec until, now, moment = {.tv_nsec = 1000000};
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += atoi(argv[2]);

    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signalled = signalfd(-1, &signals, SFD_CLOEXEC);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM)) die("prctl");

    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("unshare");
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0) die("/dev/fuse");
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    if (mount("stuck", directory, "fuse", MS_NOSUID | MS_NODEV, options)) die("mount fuse");
    if (mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, NULL)) die("mount fusectl");
    unsigned connection = connection_of(directory);
    char path[64];
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", connection);
    // opened before any process is stuck, so that a failed open leaves no stuck process behind
    int abort_file = open(path, O_WRONLY | O_CLOEXEC);
    if (abort_file < 0) die(path);
    if (pipe2(third_read, O_CLOEXEC) || pipe2(waiters, O_CLOEXEC | O_NONBLOCK)) die("pipe");

    pid_t server = fork_bound();
    if (server == 0) serve(device);
    close(device);
    pid_t victim = fork_bound();
    if (victim == 0) be_stuck(directory, with_exec);

    pid_t waits[2] = {0}; // a thread of the victim, and the process that calls exec
    int n_waits = 0, is_reported = 0, is_aborted = 0;
    struct pollfd waited[] = {{.fd = 0, .events = POLLIN}, {.fd = signalled, .events = POLLIN}};
    for (;;) {
        if (n_waits < 1 + with_exec && read(waiters[0], &waits[n_waits], sizeof *waits) > 0) n_waits++;
        if (!is_reported && n_waits == 1 + with_exec && is_waiting(victim, waits[0]) &&
            (!with_exec || is_waiting(waits[1], waits[1]))) {
            dprintf(1, with_exec ? "%d %u %d\n" : "%d %u\n", victim, connection, waits[1]);
            is_reported = 1;
        }
        poll(waited, 2, !is_reported ? 1 : is_aborted ? -1 : 100);
        clock_gettime(CLOCK_MONOTONIC, &now);
        char byte;
        int ends = waited[1].revents || (waited[0].revents && read(0, &byte, 1) <= 0);
        if (!is_aborted && (ends || waited[0].revents || now.tv_sec >= until.tv_sec)) {
            if (write(abort_file, "1", 1) != 1) kill(server, SIGKILL);
            is_aborted = 1;
            for (int i = 0; i < 1000 && n_waits && is_waiting(victim, waits[0]); i++)
                nanosleep(&moment, NULL);
            dprintf(1, "freed\n");
        }
        if (ends) _exit(0); // when this process ends, the kernel kills its children
    }
}
