// Usage: hostile NAME FILE...: takes any bytes as its name and maps the files, of any name; says "ready" and stays.
// With "leaderless" for a name, the first thread ends and another stays; with "many" N, it has N mappings; with "fork" N,
// N children; with "leapfrog", it maps ahead of whoever reads it and unmaps behind, without end.
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void *stay(void *unused) {
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
    must(fd >= 0 && mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0) != MAP_FAILED, path);
    close(fd);
}

// A window of 56,000 mappings that moves up through the address space: blocks that one call makes and one call removes, cut into
// mappings of one page by one call for every two of them.
static void leapfrog(void) {
    const uintptr_t first = 0x100000000, last = 0x700000000000, page = 4096, block = 4000 * page, window = 14 * block;
    for (;;) {
        for (uintptr_t at = first; at < last; at += block) {
            if (at >= first + window) munmap((void *)(at - window), block);
            void *made = mmap((void *)at, block, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
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
            pthread_create(&thread, NULL, stay, NULL);
            pthread_exit(NULL);
        }
    }
    stay(NULL);
}
