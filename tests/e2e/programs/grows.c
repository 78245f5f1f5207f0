// grows MODE MIB N: memory that grows without a pause up to MIB MiB, page by page, while its mappings stay as many as they are.
// It says "ready" once all mappings are there, grows from the first line of standard input on, and stays.
// Below all others it has N mappings more: the kernel prints about five per read, so with one of five N the heap is printed last.
//   brk       malloc(1008), as a program with one heap does
//   mprotect  four mappings side by side, each of which takes pages from one behind it that nothing can read
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define REGIONS 4

static void must(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    exit(1);
}

static void begin(void) {
    char line[16];
    if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) < 1) exit(1);
}

static void grow_by_brk(unsigned long size) {
    must(malloc(1008) != NULL, "malloc");
    begin();
    for (unsigned long done = 0; done < size; done += 1024) must(malloc(1008) != NULL, "malloc");
}

static void grow_by_mprotect(unsigned long size) {
    char *regions[REGIONS];
    unsigned long each = size / REGIONS;
    for (int i = 0; i < REGIONS; i++) {
        regions[i] = mmap(NULL, each + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        must(regions[i] != MAP_FAILED && !madvise(regions[i], each + PAGE, MADV_NOHUGEPAGE), "mmap");
        must(!mprotect(regions[i], PAGE, PROT_READ | PROT_WRITE), "mprotect");
        regions[i][0] = 1;
    }
    begin();
    for (unsigned long at = PAGE; at < each; at += PAGE)
        for (int i = 0; i < REGIONS; i++) {
            must(!mprotect(regions[i] + at, PAGE, PROT_READ | PROT_WRITE), "mprotect");
            regions[i][at] = 1;
        }
}

int main(int argc, char **argv) {
    must(argc == 4 && !prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "arguments");
    for (long i = 0; i < atol(argv[3]); i++) {
        void *at = (void *)(MIB + 2 * i * PAGE);
        must(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap");
    }
    unsigned long size = strtoul(argv[2], NULL, 10) * MIB;
    if (!strcmp(argv[1], "brk")) grow_by_brk(size);
    else grow_by_mprotect(size);
    for (;;) pause();
}
