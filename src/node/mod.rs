//! Containers and processes on the node: discovery, attribution, read scheduling, and the memory that cgroups
//! use.
//!
//! There are four modules. `processes` depends on `containers`, `reads` depends on `processes`, and `cgroups`
//! depends on `containers` and `processes`. No module depends on another in the opposite direction. The state
//! of the reads of a process is stored with the process, and is dropped together with it. A separate table of
//! this state would have to be matched with the processes at each listing of proc.

pub mod cgroups;
pub mod containers;
pub mod processes;
pub mod reads;
