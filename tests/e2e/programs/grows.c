// Usage: grows MODE N. Has 64 MiB resident, prints "ready", and grows by a page every 200 us, up to 1 GiB.
// The number of its mappings stays the same. Modes:
//   brk       calls malloc(1008), like a program with one heap
//   mprotect  has four mappings; mprotect(2) extends one of them at a time into the reserved memory behind it
// The program also has N mappings of one page at lower addresses than all others. N decides which mapping is
// the last one in the result of a read(2) of smaps, so the tests run the program with several values of N.
//
// The program runs with SCHED_FIFO. If a real-time process waits to change its mappings, it gets the
// mmap_lock before the next reader (kernel/locking/rwsem.c, rwsem_try_write_lock). So the program grows each
// time a reader releases the lock.
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define REGIONS 4
#define FIRST_PAGES (64 * MIB / PAGE)
#define LAST_PAGES (1024 * MIB / PAGE)

static char *regions[REGIONS];

static void must(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    exit(1);
}

static void grow_by_brk(unsigned long page) {
    (void)page;
    for (int i = 0; i < 4; i++) must(malloc(1008) != NULL, "malloc");
}

static void reserve_regions(void) {
    unsigned long size = (LAST_PAGES / REGIONS + 1) * PAGE;
    for (int i = 0; i < REGIONS; i++) {
        regions[i] = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        must(regions[i] != MAP_FAILED, "mmap");
    }
}

static void grow_by_mprotect(unsigned long page) {
    char *at = regions[page % REGIONS] + page / REGIONS * PAGE;
    must(!mprotect(at, PAGE, PROT_READ | PROT_WRITE), "mprotect");
    at[0] = 1;
}

int main(int argc, char **argv) {
    must(argc == 3 && !prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "arguments");
    // Without extra space at the top of the heap, malloc calls brk for every page.
    must(mallopt(M_TOP_PAD, 0) == 1, "mallopt");
    for (long i = 0; i < atol(argv[2]); i++) {
        void *at = (void *)(MIB + 2 * i * PAGE);
        must(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap");
    }
    int by_brk = !strcmp(argv[1], "brk");
    if (!by_brk) reserve_regions();
    void (*grow)(unsigned long) = by_brk ? grow_by_brk : grow_by_mprotect;
    unsigned long page = 0;
    while (page < FIRST_PAGES) grow(page++);
    struct sched_param priority = {.sched_priority = 1};
    must(!sched_setscheduler(0, SCHED_FIFO, &priority), "sched_setscheduler");
    must(write(1, "ready\n", 6) == 6, "write");
    struct timespec pause_between = {.tv_nsec = 200000};
    for (; page < LAST_PAGES; page++) {
        grow(page);
        nanosleep(&pause_between, NULL);
    }
    for (;;) pause();
}
