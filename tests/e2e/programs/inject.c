/* inject TID NUMBER [ARGUMENT]...: makes a thread of another program do a system call, and prints the result.
 *
 * This simulates an attacker who has taken over the other program. An ARGUMENT is a number, or a colon and a
 * text. A text is written to the thread's stack, and the system call gets the address of the text. `inject`
 * runs on x86-64 and arm64. On x86-64 the thread must be waiting in a system call. That call continues
 * afterwards. */
#include <elf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
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

static void registers(int request, pid_t tid, struct user_regs_struct *values) {
    struct iovec all = {values, sizeof *values};
    if (ptrace(request, tid, NT_PRSTATUS, &all)) fail("registers");
}

static void resume(int request, pid_t tid) {
    if (ptrace(request, tid, 0, 0)) fail("resume");
    wait_for_stop(tid);
}

#if defined __x86_64__

#define STACK(call) (call)->rsp
#define RESULT(call) (call)->rax

static unsigned long long *argument(struct user_regs_struct *call, int i) {
    unsigned long long *all[] = {&call->rdi, &call->rsi, &call->rdx, &call->r10, &call->r8, &call->r9};
    return all[i];
}

static void prepare(pid_t tid, struct user_regs_struct *call, unsigned long long number) {
    call->rip -= 2;
    uint16_t code = ptrace(PTRACE_PEEKTEXT, tid, call->rip, 0);
    if (code != 0x050f) fail("the thread is not in a system call");
    call->rax = number;
    call->orig_rax = -1; /* the kernel must not restart the call that the thread waits in */
}

static void make(pid_t tid) { resume(PTRACE_SINGLESTEP, tid); }

#elif defined __aarch64__

#define STACK(call) (call)->sp
#define RESULT(call) (call)->regs[0]

static unsigned long long *argument(struct user_regs_struct *call, int i) { return &call->regs[i]; }

/* Finds another system call instruction for the new call. The instruction where the thread waits cannot be
 * used, because the kernel may restart the old call there. It then overwrites x8, the number of the call. */
static void prepare(pid_t tid, struct user_regs_struct *call, unsigned long long number) {
    for (unsigned long long at = (call->pc + 8) & ~7ULL;; at += 8) {
        errno = 0;
        unsigned long code = ptrace(PTRACE_PEEKTEXT, tid, at, 0);
        if (errno) fail("no system call instruction after the thread's own");
        int is_first = (uint32_t)code == 0xd4000001;
        if (!is_first && code >> 32 != 0xd4000001) continue;
        call->pc = is_first ? at : at + 4;
        call->regs[8] = number;
        return;
    }
}

static void make(pid_t tid) {
    resume(PTRACE_SYSCALL, tid);
    resume(PTRACE_SYSCALL, tid);
}

#endif

int main(int argc, char **argv) {
    if (argc < 3 || argc > 9) return 2;
    pid_t tid = atoi(argv[1]);
    if (ptrace(PTRACE_ATTACH, tid, 0, 0)) fail("attach");
    wait_for_stop(tid);
    struct user_regs_struct saved, call;
    registers(PTRACE_GETREGSET, tid, &saved);
    call = saved;
    prepare(tid, &call, strtoull(argv[2], 0, 0));
    unsigned long long top = (STACK(&saved) - 8192) & ~15ULL; /* below the red zone of the stack */
    for (int i = 3; i < argc; i++) {
        if (argv[i][0] != ':') {
            *argument(&call, i - 3) = strtoull(argv[i], 0, 0);
            continue;
        }
        char text[512] = {0};
        strncpy(text, argv[i] + 1, sizeof text - 1);
        top -= sizeof text;
        *argument(&call, i - 3) = top;
        for (size_t at = 0; at < sizeof text; at += sizeof(long)) {
            long word;
            memcpy(&word, text + at, sizeof word);
            if (ptrace(PTRACE_POKEDATA, tid, top + at, word)) fail("write");
        }
    }
    registers(PTRACE_SETREGSET, tid, &call);
    make(tid);
    registers(PTRACE_GETREGSET, tid, &call);
    registers(PTRACE_SETREGSET, tid, &saved);
    if (ptrace(PTRACE_DETACH, tid, 0, 0)) fail("detach");
    printf("%lld\n", (long long)RESULT(&call));
    return 0;
}
