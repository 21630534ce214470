//! `remote-dockerd image`: what the operator does with images. It needs no running server, and a running one
//! goes on with what it has.

use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::choice::{self, Candidate};
use super::gc::{self, Cleared, GcError, Use};
use super::load::load;
use super::shelf::{self, Damaged, Shelf, look};
use super::smoke::smoke;
use super::{Entry, ImageError, ImportError, Mark, Passed, SmokeError, import};
use crate::cli::{ImageCommand, ReportFormat};
use crate::config::Config;
use crate::hypervisor::template::Templates;
use crate::state_dir;
use crate::table::{self, minute};
use crate::words::{in_one_line, visible};

/// What was asked for cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ImageCommandError {
    /// What there is cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It was not imported.
    #[error("nothing was imported")]
    Import(#[from] ImportError),
    /// Not all was cleared away.
    #[error("images were not cleared away")]
    Gc(#[from] GcError),
    /// There is no such image.
    #[error("there is no image `{name}` in {folder}; `remote-dockerd image list` tells which there are", name = name.escape_debug(), folder = folder.display())]
    NoSuch {
        /// Which was named.
        name: String,
        /// Where.
        folder: PathBuf,
    },
    /// Some are not what was built.
    #[error("{damaged} of {all} images cannot be used")]
    Damaged {
        /// How many.
        damaged: usize,
        /// Of how many.
        all: usize,
    },
    /// It did not pass, or could not be tried.
    #[error("{name} did not pass its test; what it was to a server before, it still is")]
    Smoke {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: SmokeError,
    },
    /// A mark cannot be written.
    #[error("cannot write in {folder}", folder = folder.display())]
    Mark {
        /// The folder of the images.
        folder: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What a command has to tell: data for standard output, words for standard error, and what went wrong all
/// the same.
#[derive(Debug, Default)]
pub struct Told {
    /// For programs and for people who asked for it.
    pub data: String,
    /// About what was done.
    pub words: String,
    /// What makes the command fail in the end.
    pub fault: Option<ImageCommandError>,
}

/// Does it. A test ends early when it is told to `stop`.
///
/// # Errors
/// When it cannot be done.
pub async fn run(
    config: &Config,
    command: ImageCommand,
    now: OffsetDateTime,
    stop: &CancellationToken,
) -> Result<Told, ImageCommandError> {
    let folder = config.images_dir();
    match command {
        ImageCommand::Import { folder: source } => take_in(&source, &folder),
        ImageCommand::List { format } => list(&folder, format),
        ImageCommand::Verify { names } => verify(&folder, &names),
        ImageCommand::Test { name } => try_out(config, &name, now, stop).await,
        ImageCommand::Retire { name } => retire(&folder, &name, now),
        ImageCommand::Gc { keep, dry_run } => {
            let templates = Templates::new(state_dir::templates_in(&config.state_dir));
            let cleared = gc::clear(&folder, &templates, keep, dry_run)?;
            let words = cleared.iter().map(|it| cleared_line(it, dry_run));
            let words: String = words
                .chain(look(&folder)?.damaged.iter().map(damaged_line))
                .collect();
            Ok(words_only(if words.is_empty() {
                "there is nothing to clear away\n".to_owned()
            } else {
                words
            }))
        }
    }
}

fn words_only(words: String) -> Told {
    Told {
        words,
        ..Told::default()
    }
}

fn take_in(source: &Path, folder: &Path) -> Result<Told, ImageCommandError> {
    let imported = import(source, folder)?;
    let name = &imported.entry.candidate.name;
    let what = if imported.is_new {
        "is on this host now"
    } else {
        "was on this host before, and is whole"
    };
    let all = look(folder)?.images;
    let then = match state(&imported.entry, &all) {
        State::InUse => {
            "a server that starts now uses it: there is no other of its engine that was tested"
        }
        _ => "another image of its engine is used until it has passed `remote-dockerd image test`",
    };
    Ok(Told {
        data: format!("{name}\n"),
        words: format!("{name} {what}; {then}\n"),
        fault: None,
    })
}

/// What is said of an image of which nothing else is known.
const DAMAGED: &str = "damaged";

/// What an image is to a server that starts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    InUse,
    /// It was tested and another is used.
    StandsBy,
    /// It was not tested, and one that was is used.
    Untested,
    Retired,
    /// Its agent and this server do not understand each other.
    OtherProtocol,
}

fn state(entry: &Entry, all: &[Entry]) -> State {
    if entry.candidate.retired {
        return State::Retired;
    }
    if !entry.speaks_our_protocol() {
        return State::OtherProtocol;
    }
    let usable = all.iter().filter(|it| it.speaks_our_protocol());
    let candidates: Vec<Candidate> = usable.map(|it| it.candidate.clone()).collect();
    if choice::in_use(&candidates).contains(&&entry.candidate) {
        State::InUse
    } else if entry.candidate.tested.is_some() {
        State::StandsBy
    } else {
        State::Untested
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Image(ImageLine<'a>),
    Damaged(DamagedLine<'a>),
}

/// Of it nothing but this is known.
#[derive(Serialize)]
struct DamagedLine<'a> {
    name: &'a str,
    state: &'static str,
    fault: String,
}

#[derive(Serialize)]
struct ImageLine<'a> {
    name: &'a str,
    engine: &'a str,
    engine_version: &'a str,
    state: State,
    bytes: u64,
    digest: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    tested_at: Option<OffsetDateTime>,
}

fn list(folder: &Path, format: ReportFormat) -> Result<Told, ImageCommandError> {
    let shelf = look(folder)?;
    let data = match format {
        ReportFormat::Text => table_of(&shelf),
        ReportFormat::Json => {
            let whole = shelf.images.iter().map(|it| line(it, &shelf.images));
            let lines: Vec<Line<'_>> = whole
                .chain(shelf.damaged.iter().map(line_of_damaged))
                .collect();
            // Texts, numbers and times always have a JSON form.
            serde_json::to_string_pretty(&lines).unwrap_or_default() + "\n"
        }
    };
    Ok(Told {
        data,
        ..Told::default()
    })
}

fn line<'a>(entry: &'a Entry, all: &[Entry]) -> Line<'a> {
    Line::Image(ImageLine {
        name: &entry.candidate.name,
        engine: &entry.candidate.engine,
        engine_version: &entry.engine_version,
        state: state(entry, all),
        bytes: entry.bytes,
        digest: &entry.digest,
        since: entry.candidate.since,
        tested_at: entry.candidate.tested,
    })
}

fn line_of_damaged(damaged: &Damaged) -> Line<'_> {
    Line::Damaged(DamagedLine {
        name: &damaged.name,
        state: DAMAGED,
        fault: visible(&in_one_line(&damaged.fault)),
    })
}

fn table_of(shelf: &Shelf) -> String {
    let all = &shelf.images;
    let head = [
        "NAME", "ENGINE", "VERSION", "STATE", "SIZE", "SINCE", "TESTED",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(all.iter().map(|entry| {
        let state = match state(entry, all) {
            State::InUse => "in use",
            State::StandsBy => "stands by",
            State::Untested => "untested",
            State::Retired => "retired",
            State::OtherProtocol => "of another version",
        };
        let Candidate {
            name,
            engine,
            since,
            tested,
            ..
        } = &entry.candidate;
        [
            visible(name),
            engine.clone(),
            entry.engine_version.clone(),
            state.to_owned(),
            format!("{} MiB", entry.bytes.div_ceil(1024 * 1024)),
            minute(*since),
            tested.map_or_else(|| "no".to_owned(), minute),
        ]
    }));
    rows.extend(shelf.damaged.iter().map(|it| {
        let unknown = "?".to_owned();
        let [engine, version, size, since, tested] = std::array::from_fn(|_| unknown.clone());
        let state = DAMAGED.to_owned();
        [
            visible(&it.name),
            engine,
            version,
            state,
            size,
            since,
            tested,
        ]
    }));
    table::columns(&rows)
}

fn verify(folder: &Path, names: &[String]) -> Result<Told, ImageCommandError> {
    let names = if names.is_empty() {
        let Shelf { images, damaged } = look(folder)?;
        let images = images.into_iter().map(|it| it.candidate.name);
        images
            .chain(damaged.into_iter().map(|it| it.name))
            .collect()
    } else {
        names.to_vec()
    };
    let mut told = Told::default();
    let mut damaged = 0;
    for name in &names {
        let image = named(folder, name)?;
        let name = visible(name);
        match load(&image) {
            Ok(_) => told.data.push_str(&format!("{name}: as it was built\n")),
            Err(error) => {
                damaged += 1;
                let error = visible(&in_one_line(&error));
                told.data.push_str(&format!("{name}: {error}\n"));
            }
        }
    }
    let all = names.len();
    told.fault = (damaged > 0).then_some(ImageCommandError::Damaged { damaged, all });
    Ok(told)
}

async fn try_out(
    config: &Config,
    name: &str,
    now: OffsetDateTime,
    stop: &CancellationToken,
) -> Result<Told, ImageCommandError> {
    let folder = config.images_dir();
    let entry = entry(&folder, name)?;
    let failed = |source| ImageCommandError::Smoke {
        name: name.to_owned(),
        source,
    };
    let Passed { ready, lease, work } = smoke(&entry, config, stop).await.map_err(failed)?;
    let unwritten = |source| ImageCommandError::Mark {
        folder: folder.clone(),
        source,
    };
    let set = Mark::Tested.set(&entry.folder, &entry.digest, now);
    set.map_err(&unwritten)?;
    Mark::Retired.remove(&entry.folder).map_err(&unwritten)?;
    let engine = &entry.candidate.engine;
    Ok(words_only(format!(
        "{name} passed: a server with it was ready in {:.1} s, leased a machine in {:.1} s, and a container was \
         built and run on it in {:.1} s; a server that starts now makes machines with engine {engine} of it\n",
        ready.as_secs_f64(),
        lease.as_secs_f64(),
        work.as_secs_f64(),
    )))
}

fn retire(folder: &Path, name: &str, now: OffsetDateTime) -> Result<Told, ImageCommandError> {
    let entry = entry(folder, name)?;
    let set = Mark::Retired.set(&entry.folder, &entry.digest, now);
    set.map_err(|source| ImageCommandError::Mark {
        folder: folder.to_owned(),
        source,
    })?;
    let engine = &entry.candidate.engine;
    let left = look(folder)?.images;
    let next = left
        .iter()
        .find(|it| it.candidate.engine == *engine && state(it, &left) == State::InUse);
    let then = match next {
        Some(next) => format!("{} is used instead", next.candidate.name),
        None => format!(
            "engine {engine} is offered no more, as no other image has it; a server does not start without any \
             image, nor while `default_engine` or an alias names an engine that it does not have"
        ),
    };
    Ok(words_only(format!(
        "{name} is retired: from the next start of the server on, {then}\n"
    )))
}

/// What is known of the image that is called so.
fn entry(folder: &Path, name: &str) -> Result<Entry, ImageCommandError> {
    Ok(shelf::read(named(folder, name)?)?)
}

/// The folder of the image that is called so. A name is never a way to somewhere else.
fn named(folder: &Path, name: &str) -> Result<PathBuf, ImageCommandError> {
    let image = folder.join(name);
    let is_plain = Path::new(name).file_name() == Some(name.as_ref());
    if !is_plain || !image.join(super::manifest::FILE).is_file() {
        return Err(ImageCommandError::NoSuch {
            name: name.to_owned(),
            folder: folder.to_owned(),
        });
    }
    Ok(image)
}

fn damaged_line(damaged: &Damaged) -> String {
    format!(
        "{} stays, as nobody can tell what it is: {}; remove its folder by hand\n",
        visible(&damaged.name),
        visible(&in_one_line(&damaged.fault))
    )
}

fn cleared_line(cleared: &Cleared, dry_run: bool) -> String {
    let name = &cleared.entry.candidate.name;
    let mib = cleared.entry.bytes.div_ceil(1024 * 1024);
    match cleared.stays {
        None if dry_run => format!("{name} would go: {mib} MiB\n"),
        None => format!("{name} is gone: {mib} MiB\n"),
        Some(Use::Server) => format!("{name} stays: a server that runs was started with it\n"),
        Some(Use::Template) => format!(
            "{name} stays: a template was made of it, which the server removes when no machine needs it any \
             more\n"
        ),
        Some(Use::Open) => format!("{name} stays: a machine has it open\n"),
    }
}

#[cfg(test)]
mod tests;
