//! The book.

use time::Duration;

use super::super::book::{Book, BookError, TokenState};
use super::*;

fn book(tokens: impl IntoIterator<Item = Token>) -> Book {
    Book::new(tokens.into_iter().collect()).unwrap()
}

#[test]
fn the_one_that_is_shown_is_found_and_no_other() {
    let book = book([
        token("a", "first"),
        token("b", "second"),
        token("c", "third"),
    ]);
    let name = |shown: &str| book.find(shown.as_bytes()).map(|token| token.name.as_str());
    assert_eq!(name("first"), Some("a"));
    assert_eq!(name("second"), Some("b"));
    assert_eq!(name("third"), Some("c"));
    for wrong in ["", "firs", "first ", "First", "a"] {
        assert_eq!(name(wrong), None, "{wrong}");
    }
    assert_eq!(Book::default().find(b"first"), None);
}

#[test]
fn a_token_is_good_until_it_expires_or_is_taken_back() {
    let mut token = token("a", "x");
    token.expires_at = Some(NOW + Duration::HOUR);
    assert_eq!(token.state(NOW), TokenState::Good);
    let last = NOW + Duration::HOUR - Duration::nanoseconds(1);
    assert_eq!(token.state(last), TokenState::Good);
    assert_eq!(token.state(NOW + Duration::HOUR), TokenState::Expired);
    token.revoked_at = Some(NOW);
    // Whatever the clock shows: it may have been set.
    assert_eq!(token.state(NOW - Duration::DAY), TokenState::Revoked);
}

#[test]
fn a_name_is_given_again_when_nobody_gets_in_with_it_any_more() {
    let mut book = book([]);
    book.add(token("a", "1"), NOW).unwrap();
    let taken = BookError::Taken("a".to_owned());
    assert_eq!(book.add(token("a", "2"), NOW), Err(taken));
    book.revoke("a", NOW).unwrap();
    book.add(token("a", "2"), NOW).unwrap();
    // The first is still known to be refused, and still for its reason.
    assert_eq!(book.find(b"1").unwrap().state(NOW), TokenState::Revoked);
    assert_eq!(book.find(b"2").unwrap().state(NOW), TokenState::Good);

    let unknown = |name: &str| Err(BookError::Unknown(name.to_owned()));
    assert_eq!(book.revoke("b", NOW), unknown("b"));
    book.revoke("a", NOW).unwrap();
    assert_eq!(book.revoke("a", NOW), unknown("a"));
}

#[test]
fn one_that_has_expired_is_taken_back_as_well_for_the_clock_may_be_set() {
    let mut expired = token("a", "1");
    expired.expires_at = Some(NOW);
    let mut book = book([expired]);
    book.add(token("a", "2"), NOW).unwrap();
    book.revoke("a", NOW).unwrap();
    let before = NOW - Duration::DAY;
    assert!(
        book.tokens()
            .iter()
            .all(|token| token.state(before) == TokenState::Revoked)
    );
}

#[test]
fn what_is_good_for_nothing_is_forgotten_at_last() {
    let mut book = book([]);
    let mut expires = token("a", "1");
    expires.expires_at = Some(NOW);
    book.add(expires, NOW - Duration::HOUR).unwrap();
    book.add(token("b", "2"), NOW).unwrap();
    book.add(token("c", "3"), NOW).unwrap();
    book.revoke("b", NOW).unwrap();
    let names = |book: &Book| {
        let names = book.tokens().iter().map(|token| token.name.clone());
        names.collect::<Vec<_>>()
    };
    let almost = NOW + Duration::days(90) - Duration::SECOND;
    book.add(token("d", "4"), almost).unwrap();
    assert_eq!(names(&book), ["a", "b", "c", "d"]);
    book.add(token("e", "5"), almost + Duration::SECOND)
        .unwrap();
    assert_eq!(names(&book), ["c", "d", "e"]);
}

#[test]
fn what_cannot_be_a_token_is_refused() {
    let mut book = book([]);
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "a\n", "ä", long.as_str()] {
        let refused = book.add(token(name, "1"), NOW);
        assert_eq!(refused, Err(BookError::Name(name.to_owned())));
    }
    let mut none = token("a", "1");
    none.scopes = Scopes::default();
    assert_eq!(book.add(none, NOW), Err(BookError::NoScope));
    let same = Book::new(vec![token("a", "1"), token("b", "1")]);
    assert_eq!(same, Err(BookError::Same("a".to_owned(), "b".to_owned())));
    for number in 0..4096 {
        let name = number.to_string();
        book.add(token(&name, &name), NOW).unwrap();
    }
    assert_eq!(book.add(token("a", "1st"), NOW), Err(BookError::Full));
}
