//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};

use remote_docker_api::Egress;

use crate::ssh::Forward;

mod parse;

pub(crate) use parse::parse_duration;
use parse::{egress_parser, parse_docker_name, parse_idempotency_key, parse_label, parse_positive};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    `doctor` found something that does not work
  2    the command line is wrong
  65   the server refused what was asked, such as an unknown engine
  69   the server cannot be reached, is not ready, or has no machine to give
  70   a fault of the server
  71   the system refuses something, such as a pipe
  73   the docker CLI is missing, or cannot make a context or a builder
  74   a file or the output cannot be written
  76   the server's answer cannot be used
  77   the token is missing or not good for this server
  78   the configuration is wrong
  130  ended by SIGINT (128 + number of the signal)
  `run` exits with the command's own code; 126 if it cannot be executed, 127 if it is not found,
  128 + number of the signal if a signal ended it";

const START_EXAMPLE: &str = "\
In a shell:
  eval \"$(setup-remote-docker)\"
  docker build .
  eval \"$(setup-remote-docker stop)\"";

const DOCTOR_EXIT_CODES: &str = "\
Exit codes:
  0  all is well, or nearly: warnings do not count
  1  something does not work";

const COMPLETIONS_EXAMPLE: &str = "\
For example:
  setup-remote-docker completions bash >~/.local/share/bash-completion/completions/setup-remote-docker
  setup-remote-docker completions fish >~/.config/fish/completions/setup-remote-docker.fish
  setup-remote-docker completions zsh >DIR/_setup-remote-docker   # DIR is one of $fpath";

const SSH_EXAMPLE: &str = "\
Examples:
  setup-remote-docker ssh
  setup-remote-docker ssh dmesg | tail
  setup-remote-docker ssh -N -L 8080:localhost:80

Exits with the command's own code, or 128 + number of the signal that ended it";

const SSH_CONFIG_EXAMPLE: &str = "\
Example:
  setup-remote-docker ssh-config > lease.conf
  ssh -F lease.conf remote-docker
  scp -F lease.conf -r src remote-docker:/src
  rsync -e 'ssh -F lease.conf' -a src/ remote-docker:/src/";

/// Gives a build a Docker daemon of its own on a fresh virtual machine.
///
/// Without a command it does what `start` does: it leases a machine and prints the variables that
/// make `docker` use it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(subcommand_help_heading = "Commands")]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(flatten, next_help_heading = "Options of `start`")]
    start: StartArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Where the server is [env: REMOTE_DOCKER_URL] [default: http://127.0.0.1:7420]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the certificate of the server's authority (PEM), the only one that is trusted then; the
    /// variable may hold the certificate itself [env: REMOTE_DOCKER_CA] [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<String>,
    /// The server's token; other users can see it here, so prefer --token-file or the variable
    /// [env: REMOTE_DOCKER_TOKEN]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    pub(crate) token: Option<String>,
    /// File that holds the server's token
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Configuration file [default: $XDG_CONFIG_HOME/setup-remote-docker/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long the server may take to answer, beyond what it was asked to wait [default: 15s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) timeout: Option<Duration>,
    /// Say nothing but warnings and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// What the program is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lease a machine and print the variables that make `docker` use it
    #[command(after_help = START_EXAMPLE)]
    Start(StartArgs),
    /// Run a command with a leased machine and give the machine back when the command ends
    Run(RunArgs),
    /// Give a leased machine back
    Stop(StopArgs),
    /// Show the leases that have not ended
    List(ListArgs),
    /// Show one lease: its state, how long it lasts, what its start was made of
    Show(ShowArgs),
    /// Make a lease last at least so long from now; it never gets shorter
    Extend(ExtendArgs),
    /// Show what the machine of a lease said last: its console, and its Docker daemon
    Logs(LogsArgs),
    /// Log in on the machine of a lease, or run a command there
    #[command(after_help = SSH_EXAMPLE)]
    Ssh(SshArgs),
    /// Print what ssh, scp, rsync and the like need to reach the machine of a lease
    #[command(after_help = SSH_CONFIG_EXAMPLE)]
    SshConfig(SshConfigArgs),
    /// Look for what could keep this program, or the docker CLI, from using a machine
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor(DoctorArgs),
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

/// How to lease.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub(crate) struct LeaseArgs {
    /// Docker engine, such as 28 [default: the server's]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) engine: Option<String>,
    /// Machine size, such as large [default: the server's]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) size: Option<String>,
    /// How long the lease lasts once the machine is ready, such as 90s or 1h30m [default: the
    /// server's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// How long to wait for a machine [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) wait: Option<Duration>,
    /// Give the machine up when for so long nobody used its Docker, no container ran and no build was
    /// under way [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) idle: Option<Duration>,
    /// What the machine may reach: the public Internet, nothing, or private networks too [default: the
    /// server's]
    #[arg(long, value_name = "POLICY", value_parser = egress_parser())]
    pub(crate) egress: Option<Egress>,
    /// Words that `list` shows with the lease; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
}

/// Options of `start`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) lease: LeaseArgs,
    /// Give the machine up when no heartbeat came for so long; sending them to
    /// /v1/leases/LEASE/heartbeat is then up to you [default: none is expected]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) keepalive: Option<Duration>,
    /// Name of this request, unique for each: a second one of the same name gets no second machine
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    pub(crate) idempotency_key: Option<String>,
    /// Make a docker context of this name for the lease, and the current one; `stop` puts the one of before
    /// back
    #[arg(long, value_name = "NAME", value_parser = parse_docker_name)]
    pub(crate) context: Option<String>,
    /// Make a builder of this name for `docker buildx`, with BuildKit in a container on the machine; `stop`
    /// removes it
    #[arg(long, value_name = "NAME", value_parser = parse_docker_name)]
    pub(crate) builder: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How the variables are told.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub(crate) struct OutputArgs {
    /// Who the variables are for [default: sh]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Format>,
    /// Where the formats dotenv, github and gitlab write [default: dotenv: standard output; github: the
    /// file that $GITHUB_ENV names; gitlab: setup-remote-docker.env]
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

impl OutputArgs {
    /// Who the variables are for.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or(Format::Sh)
    }
}

/// Who the variables of a lease are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A POSIX shell such as sh, dash, bash or zsh: eval "$(setup-remote-docker)"
    #[value(aliases = ["bash", "dash", "zsh"])]
    Sh,
    /// Fish: setup-remote-docker start --format fish | source
    Fish,
    /// PowerShell: setup-remote-docker start --format powershell | Out-String | Invoke-Expression
    #[value(alias = "pwsh")]
    Powershell,
    /// A program: one JSON object
    Json,
    /// A file of NAME=VALUE lines
    Dotenv,
    /// The steps of a GitHub job that come after this one
    Github,
    /// A GitLab job: a dotenv report
    Gitlab,
}

impl Format {
    /// What makes the reader fail when there is no machine, if it evaluates what it reads. `eval` of
    /// nothing has success, even under `set -e`, and the script would go on with whatever Docker daemon
    /// it finds, such as the host's own.
    pub(crate) fn failure(self) -> Option<&'static str> {
        match self {
            Self::Sh | Self::Fish => Some("false;\n"),
            Self::Powershell => Some("throw 'setup-remote-docker: there is no machine';\n"),
            Self::Json | Self::Dotenv | Self::Github | Self::Gitlab => None,
        }
    }

    fn takes_a_file(self) -> bool {
        matches!(self, Self::Dotenv | Self::Github | Self::Gitlab)
    }
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) lease: LeaseArgs,
    /// How long the server keeps the machine without a sign of life from here; four are sent in that
    /// time [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) keepalive: Option<Duration>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Options of `stop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) lease: WhichLease,
    /// Wait until nothing of the machine is left on the host
    #[arg(long)]
    pub(crate) wait: bool,
    /// Let the machine stay for so long to look into it, with `ssh` and `logs`; it goes back by itself
    /// then, or with another `stop LEASE`
    #[arg(long, value_name = "DURATION", value_parser = parse_positive, conflicts_with = "wait")]
    pub(crate) keep_for: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Options of `list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// What to print [default: table]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<ListFormat>,
}

/// What `list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for people
    Table,
    /// The server's answer as JSON
    Json,
}

/// Options of `show`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) lease: WhichLease,
    /// What to print [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<TextFormat>,
}

/// Options of `extend`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExtendArgs {
    /// How long it lasts at least, counted from now, such as 30m
    #[arg(value_name = "DURATION", value_parser = parse_positive)]
    pub(crate) by: Duration,
    #[command(flatten)]
    pub(crate) lease: WhichLease,
}

/// Options of `logs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) lease: WhichLease,
    /// Show one of the two, as it is and without a heading
    #[arg(long, value_name = "PART", value_enum)]
    pub(crate) only: Option<LogPart>,
    /// What to print [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, conflicts_with = "only")]
    pub(crate) format: Option<TextFormat>,
}

/// The lease that a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichLease {
    /// Which lease [env: REMOTE_DOCKER_LEASE]
    #[arg(value_name = "LEASE")]
    pub(crate) id: Option<String>,
}

/// Options of `ssh`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SshArgs {
    /// Which lease [env: REMOTE_DOCKER_LEASE]
    #[arg(long, value_name = "LEASE")]
    pub(crate) lease: Option<String>,
    /// Give the command a terminal, as a shell has one anyway
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Let a port of this machine lead to what the leased one reaches, such as 8080:localhost:80; may be
    /// given more than once
    #[arg(long = "forward", short = 'L', value_name = "[ADDRESS:]PORT:HOST:PORT", value_parser = Forward::from_str)]
    pub(crate) forwards: Vec<Forward>,
    /// Run nothing there: forward ports until a signal comes
    #[arg(long, short = 'N', conflicts_with_all = ["tty", "command"])]
    pub(crate) no_command: bool,
    /// Connect standard input and output to the machine's SSH server, for `ssh` itself
    #[arg(long, hide = true, conflicts_with_all = ["tty", "forwards", "no_command", "command"])]
    pub(crate) stdio: bool,
    /// The command and its arguments, for the shell there; without one, that shell itself
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Options of `ssh-config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SshConfigArgs {
    #[command(flatten)]
    pub(crate) lease: WhichLease,
}

/// What is printed about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    /// Lines for people
    Text,
    /// All of it as JSON
    Json,
}

/// One of the two logs of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogPart {
    /// The machine's kernel and its first process
    Console,
    /// The Docker daemon and containerd
    Docker,
}

/// Options of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// What to print [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<TextFormat>,
}

/// Options of `completions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// Where to; the folder is made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

impl CommandLine {
    /// What to do, `start` being meant when no command is named.
    ///
    /// # Errors
    /// Options of `start` stand before another command, which would not heed them, or a file is named
    /// that nothing would be written to.
    pub(crate) fn into_command(self) -> Result<(GlobalArgs, Command), clap::Error> {
        let refuse = |what| Err(Self::command().error(ErrorKind::ArgumentConflict, what));
        let command = match self.command {
            None => Command::Start(self.start),
            Some(command) if self.start == StartArgs::default() => command,
            Some(_) => return refuse("options of a command stand after the command's name"),
        };
        match &command {
            Command::Start(start) if start.context.is_some() && start.context == start.builder => {
                refuse("--context and --builder are to have different names")
            }
            Command::Start(StartArgs { output, .. }) | Command::Stop(StopArgs { output, .. })
                if output.env_file.is_some() && !output.format().takes_a_file() =>
            {
                refuse("--env-file goes with --format dotenv, github or gitlab")
            }
            _ => Ok((self.global, command)),
        }
    }
}

impl Command {
    /// What to print for a shell that evaluates what this command prints, when the command fails.
    pub(crate) fn failure_for_a_shell(&self) -> Option<&'static str> {
        match self {
            Self::Start(args) => args.output.format().failure(),
            _ => None,
        }
    }
}

/// The same for words that cannot be parsed: `start` is meant if none of them is another command, and
/// a POSIX shell if none of them is another format.
pub(crate) fn failure_for_a_shell(
    words: impl IntoIterator<Item = OsString>,
) -> Option<&'static str> {
    let commands = CommandLine::command();
    let is_other_command = |word: &str| {
        let mut others = commands.get_subcommands().map(clap::Command::get_name);
        word == "help" || others.any(|name| name != "start" && name == word)
    };
    let mut format = Format::Sh;
    for word in words.into_iter().skip(1) {
        let word = word.to_string_lossy();
        if is_other_command(&word) {
            return None;
        }
        let value = word.strip_prefix("--format=").unwrap_or(&word);
        if let Ok(named) = Format::from_str(value, false) {
            format = named;
        }
    }
    format.failure()
}

#[cfg(test)]
mod tests;
