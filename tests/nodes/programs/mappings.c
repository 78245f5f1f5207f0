// Usage: mappings N FILE... Makes N mappings, and touches one page of each mapping. Maps each file four
// times, as the dynamic loader maps a library. The other mappings are anonymous. If the environment variable
// BUSY is set, the program touches a new page every second.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    long page = sysconf(_SC_PAGESIZE), n = argc > 1 ? atol(argv[1]) : 0;
    int protections[] = {PROT_READ, PROT_READ | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE};
    volatile char sum = 0;
    for (int i = 2; i < argc && n >= 4; i++) {
        int fd = open(argv[i], O_RDONLY);
        for (int part = 0; fd != -1 && part < 4; part++) {
            char *start = mmap(NULL, page, protections[part], MAP_PRIVATE, fd, 0);
            if (start != MAP_FAILED) {
                sum += *start;
                n--;
            }
        }
        close(fd);
    }
    // Every second page is read-only. If all pages had the same protection, the kernel would merge adjacent
    // mappings.
    char *start = mmap(NULL, n * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (n > 0 && start == MAP_FAILED)
        return perror("mmap"), 1;
    for (long i = 0; i < n; i++) {
        start[i * page] = 1;
        if (i % 2)
            mprotect(start + i * page, page, PROT_READ);
    }
    puts("ready");
    fflush(stdout);
    while (!getenv("BUSY"))
        pause();
    for (;;) {
        sleep(1);
        madvise(start, page, MADV_DONTNEED);
        start[0] = 1;
    }
}
