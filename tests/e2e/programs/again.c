// Shares its memory, 64 MiB, with children that come and go, beside as many programs as its argument says that execute themselves again and
// again: each time another address space, whose code and stack begin where they began before.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 64 << 20, N_SHARERS = 16, STACK = 16384 };

static int sharer(void *unused) {
    (void)unused;
    usleep(4000000);
    syscall(SYS_exit, 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    if (!(personality(~0u) & ADDR_NO_RANDOMIZE)) {
        personality(ADDR_NO_RANDOMIZE);
        execv("/proc/self/exe", argv);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getenv("AGAIN")) {
        prctl(PR_SET_NAME, "again");
        srand(getpid());
        usleep(1000000 + rand() % 2000000);
        execv("/proc/self/exe", argv);
    }
    char *memory = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 1, SIZE);
    prctl(PR_SET_NAME, "shared");
    setenv("AGAIN", "1", 1);
    for (int i = 0; i < atoi(argv[1]); i++)
        if (!fork())
            execv("/proc/self/exe", argv);
    puts("ready");
    fflush(stdout);
    static char stacks[N_SHARERS][STACK];
    for (int i = 0;; i = (i + 1) % N_SHARERS) {
        clone(sharer, stacks[i] + STACK, CLONE_VM | SIGCHLD, 0);
        usleep(500000);
        while (waitpid(-1, 0, WNOHANG) > 0)
            ;
    }
}
