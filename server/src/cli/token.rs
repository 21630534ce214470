//! Arguments of `remote-dockerd token`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::ReportFormat;
use crate::access::Scope;
use crate::access::command::NewToken;

/// Options of `token`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TokenArgs {
    /// What to do with tokens
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What is done with tokens.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, which nobody can do again; a running server takes it at once
    Create(CreateArgs),
    /// List all tokens, those that expired or were taken back within 90 days included; no secret is among
    /// what is told
    List(ListArgs),
    /// Take a token back: from the next request on it is refused; leases made with it last as long as
    /// they were to, and are prolonged no more
    Revoke(RevokeArgs),
}

/// Options of `token create`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CreateArgs {
    /// What to call it, for example after who gets it; it shows in lists and in the audit log
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Whose leases it is for: `default`, or a project of the configuration
    #[arg(long, value_name = "PROJECT", default_value = crate::config::DEFAULT_PROJECT)]
    pub project: String,
    /// How long it is good, such as 12h or 30d; without it, until it is taken back
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub expires: Option<Duration>,
    /// What it may be used for, several times for several: `lease` (make, keep, end and see leases),
    /// `read` (see them), `metrics` (read /metrics) [default: lease and read]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
}

impl From<CreateArgs> for NewToken {
    fn from(args: CreateArgs) -> Self {
        Self {
            name: args.name,
            project: args.project,
            good_for: args.expires,
            scopes: args.scopes,
        }
    }
}

/// Options of `token list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct ListArgs {
    /// What to print
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// Options of `token revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RevokeArgs {
    /// Which
    #[arg(value_name = "NAME")]
    pub name: String,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; a duration looks like 12h or 30d")),
    }
}
