// Usage: hostile NAME FILE... Sets its name to NAME, which may have any bytes, maps the files, prints "ready"
// and waits. With these names, it also does the following:
//   leaderless FILE...   ends the first thread and waits in a second thread
//   many N               has N mappings
//   fork N               has N children
//   leapfrog             keeps mapping memory ahead of a reader of its smaps, and unmapping memory behind it
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void *wait_forever(void *unused) {
    (void)unused;
    puts("ready");
    fflush(stdout);
    for (;;) pause();
    return NULL;
}

static void must(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    exit(1);
}

static void map(const char *path) {
    int fd = open(path, O_RDONLY);
    must(fd >= 0, path);
    must(mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0) != MAP_FAILED, path);
    close(fd);
}

// Maps pages at higher and higher addresses, and unmaps the lowest ones, so that the process always has about
// 56,000 mappings. Each page is a mapping of its own, because every second page has another protection.
static void leapfrog(void) {
    const uintptr_t first = 0x100000000, last = 0x700000000000;
    const uintptr_t page = 4096, block = 4000 * page, window = 14 * block;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    for (;;) {
        for (uintptr_t at = first; at < last; at += block) {
            if (at >= first + window) munmap((void *)(at - window), block);
            void *made = mmap((void *)at, block, PROT_READ, flags, -1, 0);
            must(made != MAP_FAILED, "mmap");
            for (uintptr_t i = at; i < at + block; i += 2 * page)
                must(!mprotect((void *)i, page, PROT_READ | PROT_WRITE), "mprotect");
            if (at == first + window) {
                puts("ready");
                fflush(stdout);
            }
        }
        munmap((void *)first, last - first);
    }
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    if (!strcmp(name, "many")) {
        long n = atol(argv[2]);
        char *pages = mmap(NULL, n * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (long i = 0; i < n; i += 2)
            must(!mprotect(pages + i * 4096, 4096, PROT_READ | PROT_WRITE), "mprotect");
    } else if (!strcmp(name, "fork")) {
        for (long n = atol(argv[2]); n > 0; n--)
            switch (fork()) {
            case -1: perror("fork"); return 1;
            case 0: for (;;) pause();
            }
    } else if (!strcmp(name, "leapfrog")) {
        leapfrog();
    } else {
        prctl(PR_SET_NAME, name);
        for (int i = 2; i < argc; i++) map(argv[i]);
        if (!strcmp(name, "leaderless")) {
            pthread_t thread;
            pthread_create(&thread, NULL, wait_forever, NULL);
            pthread_exit(NULL);
        }
    }
    wait_forever(NULL);
}
