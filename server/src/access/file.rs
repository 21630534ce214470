//! The book of tokens on disk: `tokens.json` in the state folder. `remote-dockerd token` writes it, under
//! a lock and whole; the server only reads it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::book::{Book, BookError, Token};

/// The form of the file that this program writes.
const VERSION: u32 = 1;
/// Larger than any book that can be written.
const MAX_BYTES: u64 = 4 << 20;
/// Writable by the group, or anything for others.
const TOO_OPEN: u32 = 0o027;

/// The book cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the tokens in {path}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the tokens to {path}", path = path.display())]
    NotWritable {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Others could put tokens of their own there.
    #[error(
        "{path} belongs to user {owner} and has mode {mode:04o}, so others could put tokens of their own \
         there: look at `remote-dockerd token list`, then `chown root {path} && chmod 600 {path}`",
        path = path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// What is in it is not a book.
    #[error(
        "{path} is damaged ({what}): put a good copy in its place, or move it away and make new tokens \
         with `remote-dockerd token create`",
        path = path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it. No part of it is quoted.
        what: String,
    },
    /// What was asked for cannot be done.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// How the file looks.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    tokens: Vec<Token>,
}

/// A file as it was when it was looked at. A file that is replaced or written to is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(facts: &std::fs::Metadata) -> Self {
        Self {
            dev: facts.dev(),
            inode: facts.ino(),
            size: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }

    /// Of the file at this path; `None` when there is none.
    pub(super) fn at(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(facts) => Ok(Some(Self::of(&facts))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A file that was opened to be read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) identity: Identity,
    /// As long as it is open, no other file gets its inode's number.
    file: File,
}

impl Opened {
    /// `None` when there is no file.
    pub(super) fn at(path: &Path) -> std::io::Result<Option<Self>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Before it is read: what is written meanwhile makes it another one.
        let identity = Identity::of(&file.metadata()?);
        Ok(Some(Self { identity, file }))
    }

    /// What is in it.
    pub(super) fn read(&self, path: &Path) -> Result<Book, FileError> {
        let unreadable = |source| FileError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let damaged = |what: String| FileError::Damaged {
            path: path.to_owned(),
            what,
        };
        let facts = self.file.metadata().map_err(unreadable)?;
        if !facts.is_file() {
            return Err(damaged("it is not a regular file".to_owned()));
        }
        let (owner, mode) = (facts.uid(), facts.mode() & 0o7777);
        let is_ours = owner == 0 || owner == nix::unistd::geteuid().as_raw();
        if mode & TOO_OPEN != 0 || !is_ours {
            let path = path.to_owned();
            return Err(FileError::Exposed { path, owner, mode });
        }
        let mut bytes = Vec::new();
        (&self.file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(damaged("it is too large".to_owned()));
        }
        parse(&bytes).map_err(damaged)
    }
}

/// Reads the text of a file.
fn parse(bytes: &[u8]) -> Result<Book, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // A newer form need not have the members that are known here.
    match serde_json::from_slice::<Versioned>(bytes) {
        Ok(Versioned { version: VERSION }) => {}
        Ok(Versioned { version }) => {
            return Err(format!(
                "it has form {version}, and this program knows form {VERSION}: another version of it made \
                 the file"
            ));
        }
        Err(error) => return Err(place(&error)),
    }
    let content: Content = serde_json::from_slice(bytes).map_err(|error| place(&error))?;
    Book::new(content.tokens).map_err(|error| error.to_string())
}

/// Where a text goes wrong, without a word of it.
fn place(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("it goes wrong in line {line}, column {column}")
}

/// The book in this file; an empty one when there is no file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(path: &Path) -> Result<Book, FileError> {
    let opened = Opened::at(path).map_err(|source| FileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    opened.map_or(Ok(Book::default()), |opened| opened.read(path))
}

/// Changes the book in this file. Of several that do so at once, each finds what the one before has
/// written; and whoever reads finds all of a change or nothing.
///
/// # Errors
/// When the file cannot be read or written, and when the change cannot be made; then it stays as it was.
pub(super) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Book) -> Result<T, BookError>,
) -> Result<T, FileError> {
    let not_writable = |source| FileError::NotWritable {
        path: path.to_owned(),
        source,
    };
    let _lock = lock(path).map_err(not_writable)?;
    let mut book = read(path)?;
    let outcome = change(&mut book)?;
    write(path, &book).map_err(not_writable)?;
    Ok(outcome)
}

fn lock(path: &Path) -> std::io::Result<Flock<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path.with_extension("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn write(path: &Path, book: &Book) -> std::io::Result<()> {
    let content = Content {
        version: VERSION,
        tokens: book.tokens().to_vec(),
    };
    let mut text = serde_json::to_string_pretty(&content)?;
    text.push('\n');
    let draft = path.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    // Or a token that was taken back could be good again after a power cut.
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
