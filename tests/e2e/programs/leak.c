// Takes memory and keeps it.
//   leak heap START RATE MAX: the heap, at once START MiB, then RATE MiB a second up to MAX
//   leak map PATH: all of a file, mapped shared and read
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { STEP = 256 << 10 };

static void grow(void) {
    char *more = sbrk(STEP);
    if (more == (void *)-1) {
        perror("sbrk");
        exit(1);
    }
    memset(more, 1, STEP);
}

static void heap(long start, long rate, long max) {
    for (long i = 0; i < start << 20; i += STEP)
        grow();
    for (long i = start << 20; i < max << 20; i += STEP) {
        struct timespec pause = {0, 1000000000L / rate * STEP >> 20};
        nanosleep(&pause, NULL);
        grow();
    }
}

static void map(const char *path) {
    int file = open(path, O_RDWR);
    struct stat stat;
    if (file < 0 || fstat(file, &stat) < 0) {
        perror(path);
        exit(1);
    }
    volatile char *mapped = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    for (long i = 0; i < stat.st_size; i += 4096)
        (void)mapped[i];
}

int main(int argc, char **argv) {
    if (argc == 5 && !strcmp(argv[1], "heap"))
        heap(atol(argv[2]), atol(argv[3]), atol(argv[4]));
    else if (argc == 3 && !strcmp(argv[1], "map"))
        map(argv[2]);
    else
        return 2;
    pause();
}
