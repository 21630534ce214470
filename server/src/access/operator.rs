//! The operator's own token, the way in on the server's own host: a file that only the server's user and,
//! where the operator wants so, one group can read. All other tokens are in the book (`book.rs`).

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::secret::{self, TokenHash};

/// Anything shorter could be guessed.
const MIN_BYTES: usize = 32;
const MAX_BYTES: usize = 1024;
/// Writable or executable by the group, or anything for others.
const TOO_OPEN: u32 = 0o037;

/// A token cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be made.
    #[error("cannot write the token file {path}", path = path.display())]
    NotWritable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the token, or put one of their own there.
    #[error(
        "the token file {path} has mode {mode:04o}, so others can get at the token: delete it to get \
         a new one at the next start, or, if nobody has seen it, run `chmod 600 {path}`",
        path = path.display()
    )]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else could change the token at any time.
    #[error(
        "the token file {path} belongs to user {owner}, who could change it at any time: give it to \
         the server's user with `chown`, or delete it to get a new one at the next start",
        path = path.display()
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// What is in the file cannot be a token.
    #[error(
        "the token file {path} does not hold a token ({what}): delete it to get a new one at the \
         next start",
        path = path.display()
    )]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The system gives no random numbers.
    #[error("no random numbers could be had for a new token")]
    Random(#[from] getrandom::Error),
}

/// Reads the token in the file, or draws one and writes it there (mode 0600) if there is no file.
/// The caller holds the lock on the folder, so nobody else draws one at the same time.
///
/// # Errors
/// When the file cannot be read or made, when others could read or change it, and when it does not
/// hold a token.
pub fn load_or_create(path: &Path) -> Result<TokenHash, TokenError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    match opened {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        Err(source) => Err(TokenError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read(path: &Path, file: File) -> Result<TokenHash, TokenError> {
    let unreadable = |source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let malformed = |what| TokenError::Malformed {
        path: path.to_owned(),
        what,
    };
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(malformed("it is not a regular file"));
    }
    let mode = facts.mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        return Err(TokenError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let owner = facts.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(TokenError::Owner {
            path: path.to_owned(),
            owner,
        });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    let token = text.trim_ascii();
    if text.len() > MAX_BYTES {
        return Err(malformed("it has more than 1024 bytes"));
    }
    if token.len() < MIN_BYTES {
        return Err(malformed("it has fewer than 32 characters"));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(malformed("it is not one line of visible ASCII characters"));
    }
    Ok(TokenHash::of(token))
}

fn create(path: &Path) -> Result<TokenHash, TokenError> {
    let not_writable = |source| TokenError::NotWritable {
        path: path.to_owned(),
        source,
    };
    let token = secret::draw()?;
    // Written beside and renamed, so that a crash leaves a whole token or none.
    let draft = path.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(not_writable(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(not_writable)?;
    file.write_all(format!("{token}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(not_writable)?;
    Ok(TokenHash::of(token.as_bytes()))
}
