//! What inputs are thrown at, and what must hold for each. A target fails by panicking.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "this is how a target says that something does not hold"
)]

mod channel;
mod config;
mod csr;
mod frames;
mod jwt;

use std::path::PathBuf;

/// Something that reads what others write.
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// What its inputs are made of.
    pub words: &'static [&'static [u8]],
    /// How long inputs get, in bytes.
    pub most_bytes: usize,
    /// How much memory one input may take, in bytes.
    pub most_memory: usize,
    /// Inputs that cannot be kept as files, because they are made with keys.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Runs one input and tells in a number what came of it.
    pub run: fn(&[u8]) -> u64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}

impl Target {
    /// The folder of its kept inputs.
    #[must_use]
    pub fn corpus_folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// Makes these its kept inputs, in files that are called after what is in them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn replace_corpus(&self, inputs: &[Vec<u8>]) -> std::io::Result<()> {
        let folder = self.corpus_folder();
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        for input in inputs {
            std::fs::write(
                folder.join(format!("{:016x}", fnv(input.iter().copied()))),
                input,
            )?;
        }
        Ok(())
    }

    /// Its seeds and kept inputs, always in the same order.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn corpus(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut inputs = (self.seeds)();
        let mut files = Vec::new();
        match std::fs::read_dir(self.corpus_folder()) {
            Ok(entries) => {
                for entry in entries {
                    files.push(entry?.path());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        files.sort();
        for path in files {
            inputs.push(std::fs::read(path)?);
        }
        Ok(inputs)
    }
}

/// All there are.
#[must_use]
pub fn all() -> [Target; 6] {
    [
        frames::from_guest(),
        frames::to_guest(),
        channel::target(),
        config::target(),
        csr::target(),
        jwt::target(),
    ]
}

/// A number for what came of an input: the same for the same text.
fn outcome(text: &str) -> u64 {
    fnv(text.bytes())
}

/// FNV-1a.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
