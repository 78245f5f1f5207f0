// A 32-bit process without a C library. It has one page of data and waits forever.
static char page[4096] = {1};

static void pause_by_interrupt(void) {
    int number = 29; // the number of pause in the table for i386
    __asm__ volatile("int $0x80" : "+a"(number) : : "memory");
}

void _start(void) {
    page[0] = 2;
    for (;;)
        pause_by_interrupt();
}
