//! Values of options, from text.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use remote_docker_api::Egress;

/// Reads a duration such as `90s`, `30m` or `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration looks like 90s, 30m or 1h30m"))
}

pub(super) fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn parse_idempotency_key(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a key has 1 to 255 visible ASCII characters and no blank".to_owned())
    }
}

/// As docker demands it of contexts; it asks less of builders.
pub(super) fn parse_docker_name(text: &str) -> Result<String, String> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins_well && text.len() >= 2 && text != "default" && text.bytes().all(inside) {
        Ok(text.to_owned())
    } else {
        Err(
            "a name has two characters at least, letters, digits and _.+- after the first"
                .to_owned(),
        )
    }
}

/// A network policy by its name.
pub(super) fn egress_parser() -> impl TypedValueParser<Value = Egress> {
    PossibleValuesParser::new(Egress::ALL.map(Egress::as_str)).try_map(|word| {
        let policy = Egress::ALL
            .into_iter()
            .find(|policy| policy.as_str() == word);
        policy.ok_or("there is no such policy")
    })
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label looks like KEY=VALUE".to_owned()),
    }
}
