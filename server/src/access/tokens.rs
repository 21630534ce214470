//! The tokens as the running server knows them: the file is looked at for each request, and read again
//! when it is not the one that was read last. So a token that is taken back is refused from the next
//! request on, without a word to the server.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::book::Book;
use super::file::{FileError, Identity, Opened};

/// The book, as fresh as the file.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    last: Mutex<Last>,
}

/// What was found the last time.
#[derive(Debug)]
struct Last {
    opened: Option<Opened>,
    /// Why there is no book, in words for the operator.
    book: Result<Arc<Book>, String>,
}

impl Tokens {
    /// Reads the file, which need not exist.
    ///
    /// # Errors
    /// When it cannot be read: a server that starts is watched by somebody.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let (opened, book) = load(&path);
        let last = Mutex::new(Last {
            opened,
            book: Ok(Arc::new(book?)),
        });
        Ok(Self { path, last })
    }

    /// The book now. While the file cannot be read there is none: whoever damages it must not be able to
    /// keep a token good that was about to be taken back.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn book(&self) -> Result<Arc<Book>, String> {
        // Nothing that holds this lock panics.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.opened.as_ref().map(|opened| opened.identity);
        // What could not be looked at is read, which tells why not.
        let was_read = known.is_some() || last.book.is_ok();
        let is_same = was_read && Identity::at(&self.path).is_ok_and(|now| now == known);
        if !is_same {
            let (opened, book) = load(&self.path);
            let book = book.map(Arc::new).map_err(|error| told(&error));
            match (&last.book, &book) {
                (before, Err(error)) if before.as_ref().err() != Some(error) => {
                    tracing::error!("no token but the operator's own is good now: {error}");
                }
                (Err(_), Ok(_)) => tracing::info!("the tokens can be read again"),
                (Ok(_), Ok(book)) => {
                    tracing::info!("the tokens have changed; there are {}", book.tokens().len());
                }
                _ => {}
            }
            *last = Last { opened, book };
        }
        last.book.clone()
    }
}

fn load(path: &std::path::Path) -> (Option<Opened>, Result<Book, FileError>) {
    match Opened::at(path) {
        Ok(Some(opened)) => match opened.read(path) {
            // It may be readable the next time although nobody has changed it.
            Err(error @ FileError::Unreadable { .. }) => (None, Err(error)),
            book => (Some(opened), book),
        },
        Ok(None) => (None, Ok(Book::default())),
        Err(source) => {
            let path = path.to_owned();
            (None, Err(FileError::Unreadable { path, source }))
        }
    }
}

/// The error and its cause in one line.
fn told(error: &FileError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
