// What a container with no capability and little memory can do to whoever reads its memory maps. Says "ready" and goes on, or stays.
// Usage: adversary WHAT ...
//   deep DIRECTORY DEPTH N      maps a file below so many nested directories, of long names, N times
//   paths DIRECTORY FIRST N     maps N files of long names, beginning with that number, and touches none
//   links DIRECTORY N           maps N hard links to one file of 1 MiB, and touches all of it
//   rename MICROSECONDS         has 16 MiB and another name so often
//   renames N                   has N mappings and another name each second
//   names N                     N processes, each with a name of its own
//   idle N                      N processes that do nothing
//   shared N                    N processes that share one address space of 32 MiB
//   vfork                       a child that shares the address space of 32 MiB and is slow to execute
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096l
#define MIB (1l << 20)

static void must(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    exit(1);
}

static void ready(void) {
    puts("ready");
    fflush(stdout);
}

static void stay(void) {
    for (;;) pause();
}

static char *memory(long length) {
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED, "mmap");
    memset(at, 1, length);
    return at;
}

static void cut_into(long n) {
    char *pages = mmap(NULL, n * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < n; i += 2) must(!mprotect(pages + i * PAGE, PAGE, PROT_READ | PROT_WRITE), "mprotect");
}

static void rename_self(long i) {
    char name[32];
    snprintf(name, sizeof name, "name-%ld", i);
    prctl(PR_SET_NAME, name);
}

static void children(long n, int have_names) {
    for (long i = 0; i < n; i++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child) continue;
        prctl(PR_SET_PDEATHSIG, 9);
        if (have_names) rename_self(i);
        stay();
    }
}

static int sharer(void *unused) {
    (void)unused;
    stay();
    return 0;
}

static int slow_to_execute(void *unused) {
    (void)unused;
    sleep(1000);
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    char name[600];
    if (!strcmp(what, "deep")) {
        must(!chdir(argv[2]), argv[2]);
        memset(name, 'd', 250);
        name[250] = 0;
        for (long i = atol(argv[3]); i > 0; i--) must(!mkdir(name, 0700) && !chdir(name), "a directory");
        int file = open("file", O_RDWR | O_CREAT, 0600);
        must(file >= 0 && !ftruncate(file, PAGE), "file");
        for (long i = atol(argv[4]); i > 0; i--) must(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED, "mmap");
    } else if (!strcmp(what, "paths") || !strcmp(what, "links")) {
        int is_touched = *what == 'l';
        long first = is_touched ? 0 : atol(argv[3]), n = atol(argv[is_touched ? 3 : 4]), length = is_touched ? MIB : PAGE;
        must(!chdir(argv[2]), argv[2]);
        int file = open("file", O_RDWR | O_CREAT, 0600);
        must(file >= 0 && !ftruncate(file, length), "file");
        for (long i = first; i < first + n; i++) {
            snprintf(name, sizeof name, "%0*ld", is_touched ? 20 : 240, i);
            must(!linkat(AT_FDCWD, "file", AT_FDCWD, name, 0), name);
            int link = open(name, O_RDONLY);
            int flags = MAP_SHARED | (is_touched ? MAP_POPULATE : 0);
            must(link >= 0 && mmap(NULL, length, PROT_READ, flags, link, 0) != MAP_FAILED, "mmap");
            close(link);
        }
    } else if (!strcmp(what, "rename")) {
        memory(16 * MIB);
        ready();
        for (long i = 0;; i++) {
            rename_self(i % 100000);
            usleep(atol(argv[2]));
        }
    } else if (!strcmp(what, "renames")) {
        cut_into(atol(argv[2]));
        ready();
        for (long i = 0;; i++) {
            rename_self(i);
            sleep(1);
        }
    } else if (!strcmp(what, "names") || !strcmp(what, "idle")) {
        children(atol(argv[2]), *what == 'n');
    } else if (!strcmp(what, "shared") || !strcmp(what, "vfork")) {
        int is_vfork = *what == 'v';
        memory(32 * MIB);
        for (long i = is_vfork ? 1 : atol(argv[2]) - 1; i > 0; i--) {
            char *stack = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            // CLONE_VFORK would keep this thread from saying that it is ready; that it waits changes nothing for the child.
            must(clone(is_vfork ? slow_to_execute : sharer, stack + 16 * PAGE, CLONE_VM | 17, NULL) > 0, "clone");
        }
    } else {
        fprintf(stderr, "adversary: what?\n");
        return 2;
    }
    ready();
    stay();
}
