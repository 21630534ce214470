//! Throws inputs at everything in this repository that reads what others write, and looks whether what must
//! always hold still does: no panic, no endless work, no memory without bound, and what each target says
//! about its own results.
//!
//! A small engine of its own, because it must run on the stable toolchain and be part of the ordinary tests:
//! a mutator over a kept corpus, driven by a seed, so that a run can be repeated. Built with the flags of
//! `make fuzz` it sees which branches an input takes and keeps those that take new ones; built without, it
//! goes by what came of an input, which each target tells in a few bits.
//!
//! The kept corpus is in `corpus`, a folder for each target: of all that long runs found, the fewest inputs that take every
//! branch with the target's seeds. `--distil` makes it anew after a run that was built with the flags.

pub mod coverage;
mod distil;
pub mod engine;
pub mod memory;
mod mutate;
mod random;
pub mod targets;

pub use distil::distil;
pub use engine::{Finding, Report, run};
pub use random::Random;
pub use targets::{Target, all};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;
