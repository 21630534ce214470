//! What a guest runs out of.

use serde::{Deserialize, Serialize};

/// How full the file system is on which Docker keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Nothing can be written any more, or next to nothing.
    pub full: bool,
    /// What is short.
    pub scarce: Scarce,
    /// How much of that is in use.
    pub used_percent: u8,
    /// Room that is left, in MiB.
    pub free_mib: u64,
}

/// What a file system has only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scarce {
    /// Room for what is in files.
    Space,
    /// Room for their names and attributes: many small files use that up first.
    Files,
}

/// A process that the kernel ended because there was no memory left for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// What the process called itself; at most [`crate::MAX_NAME_BYTES`].
    pub process: String,
    /// Where it ran.
    pub whose: Whose,
    /// The limit that was reached, in KiB; `None` when it was the memory of the whole machine that ran out.
    pub limit_kib: Option<u64>,
}

/// To what a process of a guest belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// To a container of this name, or of this id where the name is not known; at most
    /// [`crate::MAX_NAME_BYTES`].
    Container(String),
    /// To a step of a build.
    BuildStep,
    /// To neither.
    Machine,
}
