//! Variables as text for whoever sets them: a shell, a CI system, a program.

use serde_json::{Map, Value};

use super::Setting;
use crate::args::Format;
use crate::output::sh_quote;

/// A value that a format has no way to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value of {name} cannot stand in a dotenv file of GitLab: it has a line break, or a blank at an end"
)]
pub(crate) struct Unwritable {
    pub(super) name: &'static str,
}

/// Lines that set or unset these variables; none for JSON, which tells more than variables.
///
/// # Errors
/// The format cannot carry one of the values.
pub(crate) fn write(format: Format, settings: &[Setting]) -> Result<String, Unwritable> {
    let line = |(name, value): &Setting| {
        let value = value.as_deref();
        Ok(match format {
            Format::Sh => sh(name, value),
            Format::Fish => fish(name, value),
            Format::Powershell => powershell(name, value),
            Format::Dotenv => format!("{name}={}\n", dotenv_quote(value.unwrap_or_default())),
            Format::Github => github(name, value.unwrap_or_default()),
            Format::Gitlab => gitlab(name, value.unwrap_or_default())?,
            Format::Json => String::new(),
        })
    };
    settings.iter().map(line).collect()
}

/// The variables by name.
pub(crate) fn object(settings: &[Setting]) -> Map<String, Value> {
    let entries = settings.iter();
    entries
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.clone())))
        .collect()
}

/// Each line ends with a semicolon, so that the lines hold even where the quotes around `$(…)` were
/// forgotten.
fn sh(name: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("export {name}={};\n", sh_quote(value)),
        None => format!("unset {name};\n"),
    }
}

fn fish(name: &str, value: Option<&str>) -> String {
    match value {
        // Between single quotes only these two have a meaning.
        Some(value) => {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            format!("set -gx {name} '{value}';\n")
        }
        // Fish takes a variable that is not there for a failure.
        None => format!("set -e {name}; or true;\n"),
    }
}

fn powershell(name: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => {
            let mut quoted = String::new();
            for character in value.chars() {
                // PowerShell takes typographic quotes for quotes; two of a kind are one character.
                if matches!(character, '\'' | '\u{2018}'..='\u{201b}') {
                    quoted.push(character);
                }
                quoted.push(character);
            }
            format!("$Env:{name} = '{quoted}';\n")
        }
        None => format!("Remove-Item -ErrorAction SilentlyContinue Env:{name};\n"),
    }
}

/// Readers of such files disagree about quotes, so only what needs them gets them: single ones, between
/// which nearly all take everything as it is, else double ones with backslashes.
fn dotenv_quote(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+=[]".contains(&byte);
    if value.bytes().all(plain) {
        value.to_owned()
    } else if !value.contains(['\'', '\n', '\r']) {
        format!("'{value}'")
    } else {
        let escaped = value.chars().fold(String::new(), |mut text, character| {
            match character {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '"' | '\\' | '$' | '`' => text.extend(['\\', character]),
                _ => text.push(character),
            }
            text
        });
        format!("\"{escaped}\"")
    }
}

/// A value with several lines stands between two lines with a word that is not in it.
fn github(name: &str, value: &str) -> String {
    if !value.contains(['\n', '\r']) {
        return format!("{name}={value}\n");
    }
    let mut word = "END".to_owned();
    while value.contains(&word) {
        word.push('_');
    }
    format!("{name}<<{word}\n{value}\n{word}\n")
}

/// GitLab knows no quotes and takes the rest of the line, without the blanks around it.
fn gitlab(name: &'static str, value: &str) -> Result<String, Unwritable> {
    if value.contains(['\n', '\r']) || value.trim() != value {
        return Err(Unwritable { name });
    }
    Ok(format!("{name}={value}\n"))
}
