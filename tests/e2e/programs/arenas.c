// Usage: arenas THREADS MIB BLOCK. Each thread fills a malloc arena with MIB MiB. The main thread allocates a
// block of BLOCK MiB, which malloc maps separately. Prints the output of malloc_info, then "ready", and
// waits.
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 64 << 10 }; // for larger blocks, malloc may use mmap instead of the arena
static int n_blocks;
static char *volatile large; // without volatile, the compiler would remove the unused block
// Until all threads have their stacks, `has_stacks` makes the threads wait before they call malloc. So all
// malloc arenas are mapped after all stacks. Otherwise chance would decide which stacks are beside an arena.
// The tests need the same layout each time, because at most one arena may lie directly below a stack (see
// tests/nodes/guest/test_anonymous.py).
static pthread_barrier_t has_stacks, filled;

static void *fill(void *ignored) {
	pthread_barrier_wait(&has_stacks);
	for (int i = 0; i < n_blocks; i++) {
		char *block = malloc(BLOCK - 16);
		if (!block) abort();
		memset(block, 1, BLOCK - 16);
	}
	pthread_barrier_wait(&filled);
	pause();
	return ignored;
}

int main(int argc, char **argv) {
	int n_threads = argc == 4 ? atoi(argv[1]) : 0;
	if (n_threads < 1) return 2;
	n_blocks = atoi(argv[2]) * ((1 << 20) / BLOCK);
	mallopt(M_ARENA_MAX, n_threads + 1);
	pthread_barrier_init(&has_stacks, NULL, n_threads);
	pthread_barrier_init(&filled, NULL, n_threads + 1);
	for (int i = 0; i < n_threads; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, fill, NULL)) return 1;
	}
	pthread_barrier_wait(&filled);
	size_t size = (size_t)atoi(argv[3]) << 20;
	large = malloc(size);
	if (!large) abort();
	memset(large, 1, size);
	malloc_info(0, stdout);
	puts("ready");
	fflush(stdout);
	pause();
}
