// Allocates memory and keeps it.
//   leak heap START RATE MAX [DELAY]  has a heap of START MiB; after DELAY seconds, it grows by RATE MiB per
//                                     second, up to MAX MiB
//   leak churn                        allocates and frees 2 MiB all the time
//   leak map PATH                     maps a file shared and reads all of it
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

static void heap(long start, long rate, long max, long delay) {
    for (long i = 0; i < start << 20; i += STEP)
        grow();
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    next.tv_sec += delay;
    for (long i = start << 20; i < max << 20; i += STEP) {
        // The time of each step is counted from the start of the leak. So a step that takes long does not
        // delay the later steps.
        next.tv_nsec += 1000000000L / rate * STEP >> 20;
        next.tv_sec += next.tv_nsec / 1000000000L;
        next.tv_nsec %= 1000000000L;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        grow();
    }
}

static void churn(void) {
    const size_t size = 2 << 20;
    for (;;) {
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            perror("mmap");
            exit(1);
        }
        memset(memory, 1, size);
        munmap(memory, size);
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
    if ((argc == 5 || argc == 6) && !strcmp(argv[1], "heap"))
        heap(atol(argv[2]), atol(argv[3]), atol(argv[4]), argc == 6 ? atol(argv[5]) : 0);
    else if (argc == 2 && !strcmp(argv[1], "churn"))
        churn();
    else if (argc == 3 && !strcmp(argv[1], "map"))
        map(argv[2]);
    else
        return 2;
    pause();
}
