//! Whether the files of a template are what was written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{TemplateError, TemplateFiles, file_error};

/// What is read at a time. Most of a fresh machine's memory was never written to, in longer runs than this.
const BLOCK: usize = 64 * 1024;

/// SHA-256 over the three files, as hexadecimal digits. Blocks of zeros count by where they are not: most of
/// a machine's memory is zeros, and passing them over saves most of the time.
pub(super) fn digest(files: &TemplateFiles) -> Result<String, TemplateError> {
    let mut hash = Sha256::new();
    for path in files.all() {
        add(path, &mut hash).map_err(|source| file_error("read", path, source))?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn add(path: &Path, hash: &mut Sha256) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let zeros = [0; BLOCK];
    let mut block = [0; BLOCK];
    let mut at = 0_u64;
    loop {
        let count = fill(&mut file, &mut block)?;
        let read = block.get(..count).unwrap_or_default();
        if read != zeros.get(..count).unwrap_or_default() {
            hash.update(at.to_le_bytes());
            hash.update(read);
        }
        at += u64::try_from(count).unwrap_or(u64::MAX);
        if count < BLOCK {
            hash.update(at.to_le_bytes());
            return Ok(());
        }
    }
}

/// Reads until the block is full or the file ends.
fn fill(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = block.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_and_so_does_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let files = TemplateFiles::in_folder(folder.path());
        let mut memory = vec![0; 4 * BLOCK + 100];
        memory[2 * BLOCK + 17] = 1;
        let of = |memory: &[u8]| {
            std::fs::write(&files.memory, memory).unwrap();
            digest(&files).unwrap()
        };
        std::fs::write(&files.device_state, b"devices").unwrap();
        std::fs::write(&files.disk, b"disk").unwrap();
        let first = of(&memory);
        assert_eq!(of(&memory), first);
        // A whole block of zeros less, a byte elsewhere in a block, the same block elsewhere.
        assert_ne!(of(&memory[..3 * BLOCK]), first);
        for place in [0, 2 * BLOCK + 18, 3 * BLOCK + 17, 4 * BLOCK + 99] {
            let mut other = memory.clone();
            other[place] ^= 1;
            assert_ne!(of(&other), first, "{place}");
            other[2 * BLOCK + 17] = 0;
            assert_ne!(of(&other), first, "{place}");
        }
        // In a hole of a file it is the same content.
        std::fs::write(&files.memory, &memory[..2 * BLOCK + 18]).unwrap();
        let sparse = File::options().write(true).open(&files.memory).unwrap();
        sparse.set_len(memory.len() as u64).unwrap();
        assert_eq!(digest(&files).unwrap(), first);
        std::fs::write(&files.disk, b"disc").unwrap();
        assert_ne!(of(&memory), first);
        std::fs::remove_file(&files.disk).unwrap();
        assert!(digest(&files).unwrap_err().to_string().contains("disk"));
    }
}
