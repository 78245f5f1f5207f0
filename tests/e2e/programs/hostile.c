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

static void map(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0 || mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0) == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static void *page(uintptr_t at) {
    void *there = mmap((void *)at, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (there == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return there;
}

// A window of mappings, each a page with a page of nothing behind it, that moves up through the address space.
static void leapfrog(void) {
    const uintptr_t first = 0x100000000, last = 0x700000000000, step = 8192, window = 40000 * step;
    for (;;) {
        for (uintptr_t at = first; at < last; at += step) {
            page(at);
            if (at >= first + window) munmap((void *)(at - window), 4096);
            if (at == first + window) {
                puts("ready");
                fflush(stdout);
            }
        }
    }
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    if (!strcmp(name, "many")) {
        long n = atol(argv[2]);
        char *pages = mmap(NULL, n * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (long i = 0; i < n; i += 2)
            if (mprotect(pages + i * 4096, 4096, PROT_READ | PROT_WRITE)) {
                perror("mprotect");
                return 1;
            }
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
