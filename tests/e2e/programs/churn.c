// Makes short-lived processes. Each process runs a copy of this program and maps a file that is named after
// the copy. Then it exits, forks, or executes another copy.
//
// Usage: PROGRAM DIRECTORY... Each directory has ten copies of this program, p-0 to p-9. A process writes one
// letter to standard output before each exec, fork, vfork, posix_spawn and exit.
//
// If the name of the program is "keep", it does none of this. Instead, it keeps starting copies, at most two
// hundred per second, and reaps the processes that have ended.
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 64, PROGRAMS = 10 };

extern char **environ;

static void report(char event) {
    if (write(1, &event, 1) != 1) _exit(1);
}

static void sleep_ms(int ms) {
    struct timespec time = {0, ms * 1000000L};
    nanosleep(&time, NULL);
}

static void keep(int argc, char **argv) {
    char path[PATH_MAX];
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (unsigned i = 0;; i++) {
        snprintf(path, sizeof path, "%s/p-%d", argv[1 + i % (argc - 1)], i / 2 % PROGRAMS);
        if (vfork() == 0) {
            argv[0] = path;
            execv(path, argv);
            _exit(1);
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        sleep_ms(5);
    }
}

int main(int argc, char **argv) {
    char path[PATH_MAX], next[PATH_MAX];
    if (!strcmp(argv[0], "keep")) keep(argc, argv);
    snprintf(path, sizeof path, "%s.map", argv[0]);
    int fd = open(path, O_RDONLY);
    char *map = mmap(NULL, PAGES * 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return 1;
    close(fd);
    // Makes many mappings below the stack. An incomplete read would contain some of these mappings, but no
    // stack.
    for (int i = 0; i < PAGES; i += 2) mprotect(map + i * 4096, 4096, PROT_READ | PROT_WRITE);

    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    srand(now.tv_nsec ^ getpid() * 7919);
    for (;;) {
        sleep_ms(5 + rand() % 90);
        // The next program is a copy from a random directory. Copies in two directories may have the same
        // name, but they map different files.
        snprintf(next, sizeof next, "%s/p-%d", argv[1 + rand() % (argc - 1)], rand() % PROGRAMS);
        char **arguments = argv;
        char *first = arguments[0];
        pid_t pid;
        switch (rand() % 8) {
        case 0: case 1: // half of the time, executes a copy with the same name
            if (rand() % 2)
                snprintf(next, sizeof next, "%s/%s", argv[1 + rand() % (argc - 1)], basename(strdup(first)));
            // fall through
        case 2:
            arguments[0] = next;
            report('e');
            execv(next, arguments);
            return 1;
        case 3:
            report('f');
            if (fork() == 0) { sleep_ms(rand() % 20); report('x'); _exit(0); }
            break;
        case 4:
            report('v');
            arguments[0] = next;
            pid = vfork();
            if (pid == 0) {
                // Until the child calls exec, it has the address space and the name of its parent.
                sleep_ms(rand() % 5);
                execv(next, arguments);
                _exit(1);
            }
            arguments[0] = first;
            report('x');
            return 0;
        case 5:
            report('s');
            arguments[0] = next;
            posix_spawn(&pid, next, NULL, NULL, arguments, environ);
            report('x');
            return 0;
        default:
            report('x');
            return 0;
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
    }
}
