//! The names and kinds of the parts into which anonymous memory is split by its use.

/// What a part of anonymous memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonPart {
    /// Stacks of threads other than the main thread.
    ThreadStacks,
    /// The heaps from which glibc's malloc gives memory to threads other than the main thread.
    MallocArenas,
    /// The heap of a Java virtual machine.
    JavaHeap,
    /// Metadata of Java classes: metaspace and the class space.
    JavaClasses,
    /// Machine code that the process itself has made.
    JitCode,
    /// The heap of Go programs.
    GoHeap,
    /// The heap of V8, the JavaScript engine of Node.js and Chromium.
    V8Heap,
    /// The heap of jemalloc or mimalloc.
    Allocator,
}

impl AnonPart {
    /// Every part, in the order of the enum.
    pub const ALL: [Self; 8] = [
        Self::ThreadStacks,
        Self::MallocArenas,
        Self::JavaHeap,
        Self::JavaClasses,
        Self::JitCode,
        Self::GoHeap,
        Self::V8Heap,
        Self::Allocator,
    ];

    /// Returns the part for which the label `path` has this value.
    pub fn of_path(path: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.path().as_bytes() == path)
    }

    /// Returns the value of the label `path`. The `~` in this value means that the use is inferred.
    pub fn path(self) -> &'static str {
        self.names().0
    }

    /// Returns the value of the label `kind`.
    pub fn kind(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ThreadStacks => ("[anon ~thread stacks]", "anon_thread_stack"),
            Self::MallocArenas => ("[anon ~malloc arenas]", "anon_malloc_arena"),
            Self::JavaHeap => ("[anon ~java heap]", "anon_java_heap"),
            Self::JavaClasses => ("[anon ~java classes]", "anon_java_classes"),
            Self::JitCode => ("[anon ~jit code]", "anon_jit_code"),
            Self::GoHeap => ("[anon ~go heap]", "anon_go_heap"),
            Self::V8Heap => ("[anon ~v8 heap]", "anon_v8_heap"),
            Self::Allocator => ("[anon ~allocator]", "anon_allocator"),
        }
    }
}
