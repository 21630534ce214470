//! `remote-dockerd token`.

use std::time::Duration;

use super::super::command::{self, NewToken, TokenCommandError};
use super::super::tokens::Tokens;
use super::*;
use crate::config::{self, Config, Overrides};

fn config(folder: &std::path::Path, text: &str) -> Config {
    let file = folder.join("config.toml");
    std::fs::write(&file, text).unwrap();
    let overrides = Overrides {
        state_dir: Some(folder.to_owned()),
        ..Overrides::default()
    };
    config::load(Some(&file), overrides).unwrap()
}

fn new(name: &str, project: &str) -> NewToken {
    NewToken {
        name: name.to_owned(),
        project: project.to_owned(),
        good_for: None,
        scopes: Vec::new(),
    }
}

#[test]
fn a_token_is_made_told_once_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "[projects.web]");
    let server = Tokens::open(folder.path().join("tokens.json")).unwrap();
    let made = command::create(&config, new("ci", "web"), NOW).unwrap();
    assert!(made.token.starts_with("rdt_") && made.token.len() == 68);
    assert!(made.token.ends_with(&made.entry.ends_with));
    assert_eq!(made.entry.scopes.to_string(), "lease,read");
    assert!(!command::made(&made.entry).contains(&made.token));
    let found = server.book().unwrap().find(made.token.as_bytes()).cloned();
    assert_eq!(found.as_ref(), Some(&made.entry));

    let list = command::list(&config).unwrap();
    assert_eq!(list, [made.entry]);
    command::revoke(&config, "ci", NOW).unwrap();
    let book = server.book().unwrap();
    assert_eq!(
        book.find(made.token.as_bytes()).unwrap().revoked_at,
        Some(NOW)
    );
}

#[test]
fn what_there_is_is_listed_without_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "[projects.web]");
    let longer = NewToken {
        good_for: Some(Duration::from_secs(30 * 86_400)),
        scopes: vec![Scope::Metrics],
        ..new("prometheus", "default")
    };
    let short = NewToken {
        good_for: Some(Duration::from_secs(1)),
        ..new("short", "web")
    };
    for new in [new("ci-main", "web"), longer, short, new("old", "web")] {
        command::create(&config, new, NOW).unwrap();
    }
    command::revoke(&config, "old", NOW).unwrap();
    let mut list = command::list(&config).unwrap();
    for token in &mut list {
        // They are drawn.
        token.ends_with = "1a2b".to_owned();
    }
    let later = NOW + time::Duration::HOUR;
    insta::assert_snapshot!("list", command::table(&list, later));
    insta::assert_snapshot!("list_json", command::json(&list, later));
}

#[test]
fn a_token_is_for_a_project_that_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "[projects.web]\n[projects.api]");
    let error = command::create(&config, new("ci", "wbe"), NOW).unwrap_err();
    assert!(matches!(error, TokenCommandError::NoProject { .. }));
    let text = error.to_string();
    assert!(text.contains("default, api, web"), "{text}");
    assert!(text.contains("[projects.wbe]"), "{text}");
    assert_eq!(command::list(&config).unwrap(), []);
}

#[test]
fn no_token_is_good_beyond_the_end_of_the_calendar() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    for seconds in [u64::MAX, 9_999 * 366 * 86_400] {
        let endless = NewToken {
            good_for: Some(Duration::from_secs(seconds)),
            ..new("ci", "default")
        };
        let error = command::create(&config, endless, NOW).unwrap_err();
        assert!(matches!(error, TokenCommandError::TooLong), "{error}");
    }
}

#[test]
fn where_no_server_was_there_are_no_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "");
    config.state_dir = folder.path().join("none");
    let error = command::create(&config, new("ci", "default"), NOW).unwrap_err();
    assert!(error.to_string().contains("--state-dir"), "{error}");
    assert!(!config.state_dir.exists());
}
