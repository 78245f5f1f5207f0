// Usage: shapeshifter DIRECTORY. Changes its memory at random. The first line of standard input is the pid of
// another shapeshifter, its partner. Each further line is a seed for one operation. Prints the name of the
// operation, and "refused" if the kernel refused it.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define SLOTS 24
#define SLOT (4ul << 20)
#define PAGE 4096ul
#define BASE 0x100000000000ul
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)

static unsigned long state;
static unsigned below(unsigned n) {
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (unsigned)(state >> 33) % n;
}

static char *slot(unsigned i) { return (char *)(BASE + i * SLOT); }

// Touches pages by a system call. If the pages are unmapped or read-only, the call only fails. An access by
// the program itself would kill the process.
static int touch(char *at, size_t length, int writes) {
    return madvise(at, length, writes ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

int main(int argc, char **argv) {
    char line[64], file[4200], other[4300];
    if (argc != 2) return 2;
    snprintf(file, sizeof file, "%s/shared", argv[1]);
    int shared = open(file, O_RDWR | O_CREAT, 0600);
    if (shared < 0 || ftruncate(shared, SLOT)) return 1;
    snprintf(file, sizeof file, "%s/own-%d", argv[1], getpid());
    int own = open(file, O_RDWR | O_CREAT, 0600);
    if (own < 0 || ftruncate(own, SLOT)) return 1;
    for (unsigned i = 0; i < SLOTS; i++) // with this memory, most operations find something mapped
        if (mmap(slot(i), 32 * PAGE, READ_WRITE, ANONYMOUS, -1, 0) == MAP_FAILED) return 1;
    for (unsigned i = 0; i < 200; i++) { // with this many mappings, the change check is cheaper than a read
        char *at = (char *)(2 * BASE + i * PAGE);
        if (mmap(at, PAGE, i % 2 ? PROT_READ : READ_WRITE, ANONYMOUS, -1, 0) == MAP_FAILED) return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    if (!fgets(line, sizeof line, stdin)) return 0;
    pid_t partner = atoi(line), child = 0;
    int pidfd = syscall(SYS_pidfd_open, partner, 0);
    while (fgets(line, sizeof line, stdin)) {
        state = strtoul(line, NULL, 10) * 2654435761u;
        for (int i = 0; i < 4; i++) below(2);
        char *at = slot(below(SLOTS));
        size_t length = (1 + below(64)) * PAGE;
        char *within = at + below(32) * PAGE;
        struct iovec far = { within, length };
        const char *name = "";
        long result = 0;
        switch (below(24)) {
        case 0: name = "mmap";
            result = -(mmap(at, 2 << 20, READ_WRITE, ANONYMOUS, -1, 0) == MAP_FAILED);
            break;
        case 1: name = "munmap"; result = munmap(within, length); break;
        case 2: name = "mremap"; {
            int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            result = -(mremap(at, 32 * PAGE, 32 * PAGE, flags, slot(below(SLOTS))) == MAP_FAILED);
            break; }
        case 3: name = "mprotect";
            result = mprotect(within, length, below(2) ? PROT_READ : READ_WRITE);
            break;
        case 4: name = "mlock"; result = mlock(within, length); break;
        case 5: name = "munlock"; result = munlock(within, length); break;
        case 6: case 7: name = "write"; result = touch(within, length, 1); break;
        case 8: name = "read"; result = touch(within, length, 0); break;
        case 9: name = "dontneed"; result = madvise(within, length, MADV_DONTNEED); break;
        case 10: name = "free"; result = madvise(within, length, MADV_FREE); break;
        case 11: name = "pageout"; result = madvise(within, length, MADV_PAGEOUT); break;
        case 12: name = "hugepage"; result = madvise(at, 2 << 20, MADV_HUGEPAGE); break;
        case 13: name = "collapse"; result = madvise(at, 2 << 20, MADV_COLLAPSE); break;
        case 14: name = "fork";
            if (child) { result = -1; break; }
            child = fork();
            if (child == 0) { prctl(PR_SET_PDEATHSIG, 9); for (;;) pause(); }
            result = child < 0 ? -1 : 0;
            break;
        case 15: name = "exit";
            if (!child) { result = -1; break; }
            kill: syscall(SYS_kill, child, 9);
            if (waitpid(child, NULL, 0) < 0) goto kill;
            child = 0;
            break;
        case 16: name = "map-shared"; {
            int flags = below(2) ? MAP_SHARED | MAP_FIXED : MAP_PRIVATE | MAP_FIXED;
            result = -(mmap(at, SLOT / 2, READ_WRITE, flags, shared, 0) == MAP_FAILED);
            break; }
        case 17: name = "map-own";
            result = -(mmap(at, SLOT / 2, READ_WRITE, MAP_SHARED | MAP_FIXED, own, 0) == MAP_FAILED);
            break;
        case 18: name = "rename-file";
            snprintf(other, sizeof other, "%s/own-%d-%u", argv[1], getpid(), below(1000));
            result = rename(file, other);
            if (!result) strcpy(file, other);
            break;
        case 19: name = "delete-file";
            result = unlink(file);
            close(own);
            snprintf(file, sizeof file, "%s/own-%d", argv[1], getpid());
            own = open(file, O_RDWR | O_CREAT, 0600);
            if (own < 0 || ftruncate(own, SLOT)) return 1;
            break;
        case 20: name = "process-madvise";
            result = syscall(SYS_process_madvise, pidfd, &far, 1, MADV_PAGEOUT, 0);
            break;
        case 21: name = "process-vm-writev"; {
            static char bytes[64 * PAGE];
            struct iovec near = { bytes, length };
            result = process_vm_writev(partner, &near, 1, &far, 1, 0);
            break; }
        case 22: name = "rename-self"; {
            char comm[32];
            snprintf(comm, sizeof comm, "shape-%u", below(5));
            result = prctl(PR_SET_NAME, comm);
            break; }
        case 23: name = "mergeable"; result = madvise(within, length, MADV_MERGEABLE); break;
        }
        printf("%s%s\n", name, result < 0 ? " refused" : "");
    }
    if (child) syscall(SYS_kill, child, 9);
    return 0;
}
