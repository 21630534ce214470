//! What the user asked for: flags first, then the environment, then the configuration file.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::args::{GlobalArgs, parse_duration};
use crate::environment::{Environment, Secret};
use crate::server_url::{DEFAULT_URL, ServerUrl, ServerUrlError};
use crate::tls::{CaError, Trust};

/// How long the server may take to answer, beyond what it was asked to wait.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long `start` and `run` wait for a machine.
const DEFAULT_WAIT: Duration = Duration::from_secs(120);
/// A configuration or token file above this many bytes is none.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// No server takes a longer one. Those that CI systems sign for a job have some 2 KB.
const MAX_TOKEN_BYTES: usize = 8192;

/// Everything that holds for each command.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the server is.
    pub(crate) server: ServerUrl,
    /// By whose certificate it is known, if it is spoken to in TLS.
    pub(crate) trust: Trust,
    /// What the server asks for.
    pub(crate) token: Token,
    /// How long the server may take to answer, beyond what it was asked to wait.
    pub(crate) timeout: Duration,
    /// Engine to ask for, unless the command names one.
    pub(crate) engine: Option<String>,
    /// Size to ask for, unless the command names one.
    pub(crate) size: Option<String>,
    /// Time to ask for, unless the command names one.
    pub(crate) ttl: Option<Duration>,
    /// How long to wait for a machine, unless the command says.
    pub(crate) wait: Duration,
    /// Things the user should know that do not stop the command.
    pub(crate) warnings: Vec<String>,
}

/// What is noted of a lease on this machine.
#[derive(Debug, Default)]
pub(crate) struct LeaseAccess {
    /// The server that made it.
    pub(crate) url: Option<String>,
    /// Its own credential, good also when what it was made with is over.
    pub(crate) token: Option<Token>,
}

/// A bearer token that can stand in a header; it never shows in debug output.
#[derive(Debug, Clone)]
pub(crate) struct Token(Secret);

impl Token {
    /// One that came with a lease, if it can stand in a header.
    pub(crate) fn of_lease(text: &str) -> Option<Self> {
        check_token("the server".to_owned(), text.to_owned()).ok()
    }

    /// The value of the `Authorization` header. Never to be logged.
    pub(crate) fn header_value(&self) -> String {
        format!("Bearer {}", self.0.0)
    }
}

/// What the configuration file may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    url: Option<String>,
    ca: Option<String>,
    allow_plaintext: Option<bool>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    engine: Option<String>,
    size: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    ttl: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    wait: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// The settings cannot be made out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {what} {}", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    // toml's own message shows the faulty line, and that line may be the token's.
    #[error("the configuration file {} is wrong at line {line}: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("the configuration file {} gives both `token` and `token_file`", path.display())]
    TwoTokens { path: PathBuf },
    #[error("the server's address, from {origin}, is wrong")]
    Url {
        origin: String,
        source: ServerUrlError,
    },
    #[error("the authority's certificate from {origin} cannot be used")]
    Ca { origin: String, source: CaError },
    #[error("the token would go to {0} unencrypted, for others on the way to read")]
    Plaintext(ServerUrl),
    #[error("there is no token to show to the server")]
    NoToken,
    #[error("the token from {origin} is not one: {fault}")]
    BadToken { origin: String, fault: &'static str },
}

/// Puts the settings together.
///
/// `lease` is what is known of the lease which the command is about: only flags win over it, as no other
/// server knows that lease.
///
/// # Errors
/// A file that was named cannot be read, something in it is wrong, or a value is not usable.
pub(crate) fn load(
    flags: &GlobalArgs,
    environment: &Environment,
    lease: &LeaseAccess,
) -> Result<Settings, ConfigError> {
    let (settings, token) = load_but_token(flags, environment, lease)?;
    let token = token?;
    Ok(Settings { token, ..settings })
}

/// The same with the token apart: settings without one are good for what needs none.
///
/// # Errors
/// As [`load`], but for the token, whose fault is told apart.
pub(crate) fn load_but_token(
    flags: &GlobalArgs,
    environment: &Environment,
    lease: &LeaseAccess,
) -> Result<(Settings, Result<Token, ConfigError>), ConfigError> {
    let mut warnings = Vec::new();
    let (path, file) = read_file(flags.config.as_deref(), environment, &mut warnings)?;
    let in_file = || format!("the configuration file {}", path.display());

    let (origin, url) = if let Some(url) = &flags.url {
        ("--url".to_owned(), url.as_str())
    } else if let Some(url) = &lease.url {
        ("the lease's folder".to_owned(), url.as_str())
    } else if let Some(url) = &environment.url {
        ("REMOTE_DOCKER_URL".to_owned(), url.as_str())
    } else if let Some(url) = &file.url {
        (in_file(), url.as_str())
    } else {
        ("the default".to_owned(), DEFAULT_URL)
    };
    let server: ServerUrl = url
        .parse()
        .map_err(|source| ConfigError::Url { origin, source })?;
    let may_be_open = environment.allow_plaintext || file.allow_plaintext == Some(true);
    if server.is_open() && !may_be_open {
        return Err(ConfigError::Plaintext(server));
    }
    let trust = if server.is_tls() {
        trust(flags, environment, &file, in_file)?
    } else {
        Trust::default()
    };

    let token = match &lease.token {
        Some(token) if flags.token.is_none() && flags.token_file.is_none() => Ok(token.clone()),
        _ => token(flags, environment, &file, in_file),
    };
    let settings = Settings {
        server,
        trust,
        token: Token(Secret(String::new())),
        timeout: flags.timeout.or(file.timeout).unwrap_or(DEFAULT_TIMEOUT),
        engine: file.engine,
        size: file.size,
        ttl: file.ttl,
        wait: file.wait.unwrap_or(DEFAULT_WAIT),
        warnings,
    };
    Ok((settings, token))
}

/// Whom to trust: the system's authorities, unless one is named.
fn trust(
    flags: &GlobalArgs,
    environment: &Environment,
    file: &FileConfig,
    in_file: impl Fn() -> String,
) -> Result<Trust, ConfigError> {
    let (origin, ca) = if let Some(ca) = &flags.ca {
        ("--ca".to_owned(), ca)
    } else if let Some(ca) = &environment.ca {
        ("REMOTE_DOCKER_CA".to_owned(), ca)
    } else if let Some(ca) = &file.ca {
        (in_file(), ca)
    } else {
        return Ok(Trust::default());
    };
    Trust::pinned(ca).map_err(|source| ConfigError::Ca { origin, source })
}

fn token(
    flags: &GlobalArgs,
    environment: &Environment,
    file: &FileConfig,
    in_file: impl Fn() -> String,
) -> Result<Token, ConfigError> {
    let (origin, token) = if let Some(token) = &flags.token {
        ("--token".to_owned(), token.clone())
    } else if let Some(file) = &flags.token_file {
        read_token(file)?
    } else if let Some(token) = &environment.token {
        ("REMOTE_DOCKER_TOKEN".to_owned(), token.0.clone())
    } else if let Some(token) = &file.token {
        (in_file(), token.clone())
    } else if let Some(file) = &file.token_file {
        read_token(file)?
    } else {
        return Err(ConfigError::NoToken);
    };
    check_token(origin, token)
}

fn check_token(origin: String, token: String) -> Result<Token, ConfigError> {
    let fault = if token.is_empty() {
        "it is empty"
    } else if token.len() > MAX_TOKEN_BYTES {
        "it is longer than 8192 bytes"
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it holds a character that is not visible ASCII"
    } else {
        return Ok(Token(Secret(token)));
    };
    Err(ConfigError::BadToken { origin, fault })
}

fn read_token(path: &Path) -> Result<(String, String), ConfigError> {
    let text = read_bounded(path).map_err(|source| ConfigError::Read {
        what: "the token file",
        path: path.to_owned(),
        source,
    })?;
    Ok((path.display().to_string(), text.trim().to_owned()))
}

fn read_file(
    named: Option<&Path>,
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<(PathBuf, FileConfig), ConfigError> {
    let usual = || {
        let below = environment
            .config_home
            .clone()
            .filter(|path| path.is_absolute())
            .or_else(|| Some(environment.home.as_ref()?.join(".config")))?;
        Some(below.join("setup-remote-docker/config.toml"))
    };
    let Some(path) = named.map(Path::to_owned).or_else(usual) else {
        return Ok((PathBuf::new(), FileConfig::default()));
    };
    let text = match read_bounded(&path) {
        Ok(text) => text,
        // Only a file that was asked for by name must be there.
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok((path, FileConfig::default()));
        }
        Err(source) => {
            return Err(ConfigError::Read {
                what: "the configuration file",
                path,
                source,
            });
        }
    };
    let file: FileConfig = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        path: path.clone(),
        line: error.span().map_or(1, |span| {
            text.bytes()
                .take(span.start)
                .filter(|&b| b == b'\n')
                .count()
                + 1
        }),
        message: error.message().to_owned(),
    })?;
    if file.token.is_some() && file.token_file.is_some() {
        return Err(ConfigError::TwoTokens { path });
    }
    let open_to_others =
        fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    if file.token.is_some() && open_to_others {
        warnings.push(format!(
            "{} holds a token and other users may read it; `chmod 600` it",
            path.display()
        ));
    }
    Ok((path, file))
}

pub(crate) fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
