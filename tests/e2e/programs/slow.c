// Usage:
//   slow pages N        has N resident pages of 4 KiB, and one more page every 20 ms, so the values of a
//                       read show when the process was read
//   slow paths N FILE   has N mappings of FILE
// Both forms print "ready" and wait.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE 4096L
#define MAX_ADDED 30000L // enough to grow for ten minutes

static void must(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    exit(1);
}

static void ready(void) {
    puts("ready");
    fflush(stdout);
}

int main(int argc, char **argv) {
    must(argc >= 3, "arguments");
    long n = atol(argv[2]);
    prctl(PR_SET_NAME, argv[1]);
    if (!strcmp(argv[1], "paths")) {
        int file = open(argv[3], O_RDONLY);
        must(file >= 0, argv[3]);
        for (; n > 0; n--)
            must(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0) != MAP_FAILED, "mmap");
        ready();
    } else {
        size_t size = (n + MAX_ADDED) * PAGE;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
        must(pages != MAP_FAILED && !madvise(pages, size, MADV_NOHUGEPAGE), "mmap");
        for (long i = 0; i < n; i++) pages[i * PAGE] = 1;
        ready();
        for (long i = n; i < n + MAX_ADDED; i++, usleep(20000)) pages[i * PAGE] = 1;
    }
    for (;;) pause();
}
