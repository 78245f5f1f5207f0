// Usage: replaced MIB. Has MIB MiB resident in pages of 4 KiB, prints "ready", and reads commands from its
// input:
//   name NAME   changes its name and prints "done"
//   exec PATH   executes PATH with the argument "0"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    size_t size = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : 0;
    if (size > 0) {
        char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || madvise(pages, size, MADV_NOHUGEPAGE)) return 1;
        for (size_t at = 0; at < size; at += 4096) pages[at] = 1;
    }
    char line[4096];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (puts("ready"); fgets(line, sizeof line, stdin); puts("done")) {
        char *argument = line + 5;
        argument[strcspn(argument, "\n")] = 0;
        if (!strncmp(line, "name ", 5)) prctl(PR_SET_NAME, argument);
        else execl(argument, argument, "0", (char *)NULL);
    }
    return 0;
}
