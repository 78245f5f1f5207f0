// Attacks programs that read the memory maps of this process. A container needs neither capabilities nor much
// memory for these attacks. Prints "ready", and then continues or waits.
// Usage: adversary ATTACK ...
//   deep DIRECTORY DEPTH N      maps a file below DEPTH nested directories with long names N times
//   paths DIRECTORY FIRST N     maps N files with long names, numbered from FIRST, and touches none
//   links DIRECTORY N           maps N hard links to one file of 1 MiB, and touches all of it
//   rename MICROSECONDS         has 16 MiB and changes its name once per interval
//   renames N                   has N mappings and changes its name each second
//   names N                     forks N processes with different names
//   idle N                      forks N idle processes
//   shared N                    N processes that share one address space of 32 MiB
//   vfork                       a child that shares an address space of 32 MiB and is slow to call exec
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

static void wait_forever(void) {
    for (;;) pause();
}

static char *memory(long length) {
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED, "mmap");
    memset(at, 1, length);
    return at;
}

static void make_mappings(long n) {
    char *pages = mmap(NULL, n * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < n; i += 2)
        must(!mprotect(pages + i * PAGE, PAGE, PROT_READ | PROT_WRITE), "mprotect");
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
        wait_forever();
    }
}

static int sharer(void *unused) {
    (void)unused;
    wait_forever();
    return 0;
}

static int slow_to_execute(void *unused) {
    (void)unused;
    sleep(1000);
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

int main(int argc, char **argv) {
    const char *attack = argc > 1 ? argv[1] : "";
    char name[600];
    if (!strcmp(attack, "deep")) {
        must(!chdir(argv[2]), argv[2]);
        memset(name, 'd', 250);
        name[250] = 0;
        for (long i = atol(argv[3]); i > 0; i--) must(!mkdir(name, 0700) && !chdir(name), "a directory");
        int file = open("file", O_RDWR | O_CREAT, 0600);
        must(file >= 0 && !ftruncate(file, PAGE), "file");
        for (long i = atol(argv[4]); i > 0; i--)
            must(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED, "mmap");
    } else if (!strcmp(attack, "paths") || !strcmp(attack, "links")) {
        int is_touched = *attack == 'l';
        long first = is_touched ? 0 : atol(argv[3]), n = atol(argv[is_touched ? 3 : 4]);
        long length = is_touched ? MIB : PAGE;
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
    } else if (!strcmp(attack, "rename")) {
        memory(16 * MIB);
        ready();
        for (long i = 0;; i++) {
            rename_self(i % 100000);
            usleep(atol(argv[2]));
        }
    } else if (!strcmp(attack, "renames")) {
        make_mappings(atol(argv[2]));
        ready();
        for (long i = 0;; i++) {
            rename_self(i);
            sleep(1);
        }
    } else if (!strcmp(attack, "names") || !strcmp(attack, "idle")) {
        children(atol(argv[2]), *attack == 'n');
    } else if (!strcmp(attack, "shared") || !strcmp(attack, "vfork")) {
        int is_vfork = *attack == 'v';
        memory(32 * MIB);
        for (long i = is_vfork ? 1 : atol(argv[2]) - 1; i > 0; i--) {
            char *stack = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            // In the attack "vfork", the child shares the memory of its parent, like a child of vfork. A real
            // vfork would stop the calling thread until the child calls exec, so this thread could not print
            // "ready".
            int (*child)(void *) = is_vfork ? slow_to_execute : sharer;
            must(clone(child, stack + 16 * PAGE, CLONE_VM | 17, NULL) > 0, "clone");
        }
    } else {
        fprintf(stderr, "adversary: unknown attack \"%s\"\n", attack);
        return 2;
    }
    ready();
    wait_forever();
}
