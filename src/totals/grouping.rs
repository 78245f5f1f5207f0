//! What one series stands for.

/// What one series stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// One mapped path of one command.
    #[default]
    Path,
    /// One kind of mapping (file, anonymous, heap, ...) of one command.
    Kind,
    /// All mappings of one command.
    Process,
}
