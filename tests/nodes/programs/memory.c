// Usage: memory [partly]. Without an argument, makes each kind of memory that smaps shows, in a process and
// in its child. With the argument "partly", makes only half-freed huge pages, swapped memory and lazily freed
// memory, in one process, and thus no locked memory. Prints the kinds of memory that the kernel refused, then
// prints "ready" and waits.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

// These constants are newer than the kernel headers that the program is compiled with.
#define ADVICE_PAGEOUT 21
#define ADVICE_GUARD_INSTALL 102
#define MAPPING_DROPPABLE 8
#define SET_VMA 0x53564d41

#define MB (1UL << 20)
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)

// If the kernel does not support something, prints its name and continues. The tests know what each kernel
// supports.
static void check(const char *what, long result) {
    if (result == -1)
        printf("no %s: %s\n", what, strerror(errno));
}

static char *map(const char *what, void *at, size_t size, int flags, int fd) {
    char *start = mmap(at, size, READ_WRITE, flags, fd, 0);
    check(what, (long)start);
    return start == MAP_FAILED ? NULL : start;
}

// Writes to each page. With `distinct`, all pages are different, so KSM merges none of them.
static void touch(char *start, size_t size, int distinct) {
    for (size_t at = 0; start && at < size; at += 4096) {
        memset(start + at, 0x5a, 4096);
        if (distinct)
            *(uint64_t *)(start + at) = (uintptr_t)start + at;
    }
}

static int file_of(int fd, size_t size) {
    check("file", fd == -1 ? -1 : ftruncate(fd, size));
    return fd;
}

static char *named(const char *name, uintptr_t at, size_t size) {
    char *start = map(name, (void *)at, size, PRIVATE | (at ? MAP_FIXED_NOREPLACE : 0), -1);
    // since Linux 5.17, smaps shows this name as [anon:name], if the kernel has CONFIG_ANON_VMA_NAME
    prctl(SET_VMA, 0, start, size, name);
    return start;
}

static void shared(void) {
    int fd = file_of(open("/dev/shm/segment", O_RDWR | O_CREAT, 0600), 3 * MB);
    touch(map("/dev/shm", 0, 3 * MB, MAP_SHARED, fd), 2 * MB, 1);

    int id = shmget(IPC_PRIVATE, 2 * MB, IPC_CREAT | 0600);
    char *segment = shmat(id, NULL, 0);
    check("System V segment", (long)segment);
    touch(segment, MB, 1);

    fd = file_of(memfd_create("a name\nof two lines", 0), MB);
    touch(map("memfd", 0, MB, MAP_SHARED, fd), MB, 1);

    fd = file_of(memfd_create("huge", 0), 8 * MB);
    char *huge = map("memfd", (void *)0x300000000000, 8 * MB, MAP_SHARED | MAP_FIXED_NOREPLACE, fd);
    check("huge pages of a memfd", madvise(huge, 8 * MB, MADV_HUGEPAGE));
    touch(huge, 4 * MB, 1);

    char *out = map("memfd", 0, MB, MAP_SHARED, file_of(memfd_create("swapped", 0), MB));
    touch(out, MB, 1);
    check("pageout of a memfd", madvise(out, MB, ADVICE_PAGEOUT));

    touch(map("/dev/zero", 0, MB, MAP_SHARED, open("/dev/zero", O_RDWR)), MB / 2, 1);
    touch(map("shared hugetlb", 0, 4 * MB, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1), 4 * MB, 0);
    touch(map("droppable memory", 0, MB, MAPPING_DROPPABLE | MAP_ANONYMOUS, -1), MB / 2, 1);
}

// Makes several kinds of private memory. Returns the mapping with hugetlb pages.
static char *private(void) {
    char *hugetlb = map("private hugetlb", 0, 4 * MB, PRIVATE | MAP_HUGETLB, -1);
    touch(hugetlb, 4 * MB, 0);

    char *locked = named("locked", 0, MB);
    touch(locked, MB, 1);
    check("mlock", mlock(locked, MB));

    char *swapped = named("swapped", 0x310000000000, 3 * MB);
    madvise(swapped, 3 * MB, MADV_NOHUGEPAGE);
    touch(swapped, 3 * MB, 1);
    check("pageout", madvise(swapped, 2 * MB, ADVICE_PAGEOUT));

    char *same = named("same", 0x320000000000, 4 * MB);
    madvise(same, 4 * MB, MADV_NOHUGEPAGE);
    touch(same, 4 * MB, 0);
    check("KSM", madvise(same, 4 * MB, MADV_MERGEABLE));

    char *huge = named("huge", 0x330000000000, 8 * MB);
    check("huge pages", madvise(huge, 8 * MB, MADV_HUGEPAGE));
    touch(huge, 6 * MB, 1);

    char *guarded = named("guarded", 0, MB);
    touch(guarded, MB / 2, 1);
    check("guard pages", madvise(guarded, MB / 4, ADVICE_GUARD_INSTALL));

    // Addresses above 47 bits need page tables with five levels.
    touch(map("five levels", (void *)(1UL << 52), MB, PRIVATE | MAP_FIXED_NOREPLACE, -1), MB / 4, 1);

    int key = syscall(SYS_pkey_alloc, 0, 0);
    check("protection key", key);
    char *keyed = named("keyed", 0, MB);
    touch(keyed, MB / 4, 1);
    if (key != -1)
        syscall(SYS_pkey_mprotect, keyed, MB, READ_WRITE, key);

    // The Size of this mapping has nine digits.
    check("300 GiB", (long)mmap(NULL, 300UL << 30, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    return hugetlb;
}

static void files(void) {
    int fd = file_of(open("/tmp/file (deleted)", O_RDWR | O_CREAT, 0600), MB);
    touch(map("file", 0, MB, MAP_SHARED, fd), MB / 2, 1);
    touch(map("file, privately", 0, MB, MAP_PRIVATE, fd), MB / 4, 1);
    fd = file_of(open("/tmp/gone", O_RDWR | O_CREAT, 0600), MB);
    touch(map("deleted file", 0, MB, MAP_SHARED, fd), MB / 2, 1);
    unlink("/tmp/gone");
}

// Maps 16 MiB of huge pages and frees one half of each. The kernel keeps the freed halves until it splits the
// huge pages. Also makes swapped memory, and memory that is freed with MADV_FREE.
static void partly(void) {
    char *huge = map("huge pages", (void *)0x350000000000, 16 * MB, PRIVATE | MAP_FIXED_NOREPLACE, -1);
    check("huge pages", madvise(huge, 16 * MB, MADV_HUGEPAGE));
    touch(huge, 16 * MB, 1);
    for (size_t at = 0; at < 16 * MB; at += 2 * MB)
        check("half of a huge page", madvise(huge + at, MB, MADV_DONTNEED));

    char *swapped = named("swapped", 0x310000000000, 3 * MB);
    madvise(swapped, 3 * MB, MADV_NOHUGEPAGE);
    touch(swapped, 3 * MB, 1);
    check("pageout", madvise(swapped, 2 * MB, ADVICE_PAGEOUT));

    char *freed = named("freed", 0x340000000000, MB);
    madvise(freed, MB, MADV_NOHUGEPAGE);
    touch(freed, MB, 1);
    check("MADV_FREE", madvise(freed, MB, MADV_FREE));
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0); // otherwise, the child would inherit unwritten output
    if (argc == 2 && strcmp(argv[1], "partly") == 0) {
        partly();
        puts("ready");
        for (;;)
            pause();
    }
    shared();
    char *hugetlb = private();
    files();
    if (fork() == 0)
        prctl(PR_SET_PDEATHSIG, 9);
    touch(hugetlb, 2 * MB, 1);
    // These pages are allocated only after the fork. Otherwise, parent and child would share them, and
    // MADV_FREE does not free shared pages.
    char *freed = named("freed", 0x340000000000, 2 * MB);
    madvise(freed, 2 * MB, MADV_NOHUGEPAGE);
    touch(freed, 2 * MB, 1);
    check("MADV_FREE", madvise(freed, MB, MADV_FREE));
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
