//! The book's file, as a running server follows it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::book::{Book, BookError};
use super::super::file::{self, FileError};
use super::super::tokens::Tokens;
use super::*;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    (folder, path)
}

fn add(path: &Path, token: Token) {
    file::change(path, |book| book.add(token, NOW)).unwrap();
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(book: &Book) -> Vec<&str> {
    book.tokens()
        .iter()
        .map(|token| token.name.as_str())
        .collect()
}

#[test]
fn a_change_is_there_at_the_next_look() {
    let (_folder, path) = place();
    let tokens = Tokens::open(path.clone()).unwrap();
    assert_eq!(names(&tokens.book().unwrap()), Vec::<&str>::new());
    add(&path, token("a", "1"));
    assert_eq!(names(&tokens.book().unwrap()), ["a"]);
    // Files of one size, written within one tick of the file system's clock, whose inodes take turns.
    for round in 0..50 {
        let name = format!("b{}", round % 10);
        add(&path, token(&name, &name));
        assert!(tokens.book().unwrap().find(name.as_bytes()).is_some());
        file::change(&path, |book| {
            *book = Book::new(vec![token("a", "1")])?;
            Ok(())
        })
        .unwrap();
        assert_eq!(names(&tokens.book().unwrap()), ["a"], "{round}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(names(&tokens.book().unwrap()), Vec::<&str>::new());
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let (_folder, path) = place();
    add(&path, token("a", "1"));
    let tokens = Tokens::open(path).unwrap();
    let (one, two) = (tokens.book().unwrap(), tokens.book().unwrap());
    assert!(std::sync::Arc::ptr_eq(&one, &two));
}

#[test]
fn the_file_is_its_owners_and_holds_no_secret() {
    let (folder, path) = place();
    add(&path, token("a", "the secret itself"));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("the secret itself"), "{text}");
    assert_eq!(names(&file::read(&path).unwrap()), ["a"]);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    // The book and its lock.
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn many_that_write_at_once_lose_nothing() {
    let (_folder, path) = place();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let path = path.clone();
            scope.spawn(move || {
                let name = format!("t{number}");
                add(&path, token(&name, &name));
            });
        }
    });
    assert_eq!(file::read(&path).unwrap().tokens().len(), 16);
}

#[test]
fn a_change_that_cannot_be_made_leaves_the_file_as_it_was() {
    let (_folder, path) = place();
    add(&path, token("a", "1"));
    let before = fs::read(&path).unwrap();
    let refused = file::change(&path, |book| book.add(token("a", "2"), NOW));
    assert!(matches!(refused, Err(FileError::Book(BookError::Taken(_)))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_cannot_be_used_opens_nothing_until_it_is_good_again() {
    let (folder, path) = place();
    add(&path, token("a", "sesame"));
    let good = fs::read_to_string(&path).unwrap();
    let tokens = Tokens::open(path.clone()).unwrap();
    let half = &good[..good.len() / 2];
    let other = good.replace("\"version\": 1", "\"version\": 2");
    let double = {
        let list = good.find('[').unwrap();
        let entry = &good[list + 1..good.rfind(']').unwrap()];
        format!("{}{},{}]}}", &good[..=list], entry, entry)
    };
    let cut = good.replace("\"sha256\": \"", "\"sha256\": \"zz");
    for (text, mode, told) in [
        ("", 0o600, "line 1"),
        (half, 0o600, "is damaged"),
        ("[]", 0o600, "is damaged"),
        ("{\"version\": 1}", 0o600, "is damaged"),
        (other.as_str(), 0o600, "form 2"),
        (double.as_str(), 0o600, "cannot be told apart"),
        (cut.as_str(), 0o600, "is damaged"),
        (good.as_str(), 0o620, "mode 0620"),
        (good.as_str(), 0o602, "mode 0602"),
        (good.as_str(), 0o604, "mode 0604"),
    ] {
        write(&path, text, mode);
        for _ in 0..2 {
            let why = tokens.book().unwrap_err();
            assert!(why.contains(told), "{told} not in {why}");
            assert!(
                why.contains("tokens.json") && !why.contains("sesame"),
                "{why}"
            );
        }
        // A server does not start on it, and no token is written beside it.
        assert!(Tokens::open(path.clone()).is_err());
        assert!(file::change(&path, |_| Ok(())).is_err());
        write(&path, &good, 0o600);
        assert_eq!(names(&tokens.book().unwrap()), ["a"]);
    }
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(tokens.book().is_err());
    fs::remove_file(&path).unwrap();
    // Nothing is good, and nothing is wrong.
    assert_eq!(names(&tokens.book().unwrap()), Vec::<&str>::new());
    fs::create_dir(&path).unwrap();
    assert!(tokens.book().is_err());
}
