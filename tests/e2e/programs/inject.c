/* inject TID NUMBER [ARGUMENT]...: makes a thread of another program do one system call, and prints what it returned.
 *
 * Stands for somebody who has taken that program over. An argument is a number, or text after a colon, which is put on the
 * thread's stack and passed by its address. x86-64; the thread must be waiting in a system call, which goes on afterwards. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static void fail(const char *what) {
    fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void wait_for_stop(pid_t tid) {
    int status;
    if (waitpid(tid, &status, __WALL) < 0 || !WIFSTOPPED(status)) fail("the thread did not stop");
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 9) return 2;
    pid_t tid = atoi(argv[1]);
    if (ptrace(PTRACE_ATTACH, tid, 0, 0)) fail("attach");
    wait_for_stop(tid);
    struct user_regs_struct saved, call;
    if (ptrace(PTRACE_GETREGS, tid, 0, &saved)) fail("registers");
    call = saved;
    call.rip -= 2;
    uint16_t code = ptrace(PTRACE_PEEKTEXT, tid, call.rip, 0);
    if (code != 0x050f) fail("the thread is not in a system call");
    unsigned long long *registers[] = {&call.rdi, &call.rsi, &call.rdx, &call.r10, &call.r8, &call.r9};
    unsigned long long top = (saved.rsp - 8192) & ~15ULL; /* below the red zone */
    for (int i = 3; i < argc; i++) {
        if (argv[i][0] != ':') {
            *registers[i - 3] = strtoull(argv[i], 0, 0);
            continue;
        }
        char text[512] = {0};
        strncpy(text, argv[i] + 1, sizeof text - 1);
        top -= sizeof text;
        *registers[i - 3] = top;
        for (size_t at = 0; at < sizeof text; at += sizeof(long)) {
            long word;
            memcpy(&word, text + at, sizeof word);
            if (ptrace(PTRACE_POKEDATA, tid, top + at, word)) fail("write");
        }
    }
    call.rax = strtoull(argv[2], 0, 0);
    call.orig_rax = -1; /* nothing to restart */
    if (ptrace(PTRACE_SETREGS, tid, 0, &call)) fail("registers");
    if (ptrace(PTRACE_SINGLESTEP, tid, 0, 0)) fail("step");
    wait_for_stop(tid);
    if (ptrace(PTRACE_GETREGS, tid, 0, &call)) fail("registers");
    if (ptrace(PTRACE_SETREGS, tid, 0, &saved)) fail("registers");
    if (ptrace(PTRACE_DETACH, tid, 0, 0)) fail("detach");
    printf("%lld\n", (long long)call.rax);
    return 0;
}
