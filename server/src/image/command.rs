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
mod tests {
    use super::super::testing::write_image;
    use super::*;

    fn run_in(folder: &Path, command: ImageCommand) -> Result<Told, ImageCommandError> {
        let file = folder.join("config.toml");
        let text = format!(
            "state_dir = '{0}/state'\nimages_dir = '{0}/images'",
            folder.display()
        );
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(Some(&file), Default::default()).unwrap();
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(run(&config, command, OffsetDateTime::UNIX_EPOCH, &stop))
    }

    fn list(folder: &Path) -> String {
        let told = run_in(
            folder,
            ImageCommand::List {
                format: ReportFormat::Text,
            },
        )
        .unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        told.data
            .lines()
            .skip(1)
            .map(words)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn from_import_to_gc() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_image(&folder.join("built"), "26");
        let source = folder.join("built");
        let told = run_in(folder, ImageCommand::Import { folder: source }).unwrap();
        let name = told.data.trim().to_owned();
        assert!(
            told.words.contains("a server that starts now uses it"),
            "{}",
            told.words
        );
        assert!(list(folder).starts_with(&format!("{name} 26 26.1.5 in use 1 MiB ")));
        let names = vec![name.clone()];
        let told = run_in(
            folder,
            ImageCommand::Verify {
                names: names.clone(),
            },
        )
        .unwrap();
        assert!(told.fault.is_none() && told.data.contains("as it was built"));

        std::fs::write(folder.join("images").join(&name).join("vmlinuz"), "vmlinuX").unwrap();
        let told = run_in(folder, ImageCommand::Verify { names: Vec::new() }).unwrap();
        assert!(
            told.data.contains("vmlinuz is not the file"),
            "{}",
            told.data
        );
        assert!(matches!(
            told.fault,
            Some(ImageCommandError::Damaged { damaged: 1, all: 1 })
        ));

        let told = run_in(folder, ImageCommand::Retire { name: name.clone() }).unwrap();
        assert!(told.words.contains("offered no more"), "{}", told.words);
        assert!(list(folder).contains("retired"));
        let gc = |dry_run| {
            run_in(folder, ImageCommand::Gc { keep: 2, dry_run })
                .unwrap()
                .words
        };
        assert_eq!(gc(true), format!("{name} would go: 1 MiB\n"));
        assert_eq!(gc(false), format!("{name} is gone: 1 MiB\n"));
        assert_eq!(gc(false), "there is nothing to clear away\n");
        assert_eq!(list(folder), "");
    }

    #[test]
    fn a_damaged_one_is_told_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["a", "b"] {
            write_image(&folder.join("images").join(name), "26");
        }
        std::fs::write(folder.join("images/b/manifest.json"), "{}").unwrap();
        let lines = list(folder);
        let lines: Vec<&str> = lines.lines().collect();
        assert!(
            lines[0].starts_with("a 26 26.1.5 in use 1 MiB "),
            "{lines:?}"
        );
        assert_eq!(lines[1..], ["b ? ? damaged ? ? ?"]);
        let format = ReportFormat::Json;
        let told = run_in(folder, ImageCommand::List { format }).unwrap().data;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told[0]["state"], "in_use");
        assert_eq!(told[1]["state"], "damaged");
        assert!(told[1]["fault"].as_str().unwrap().contains("manifest.json"));
        let told = run_in(folder, ImageCommand::Verify { names: Vec::new() }).unwrap();
        assert!(told.data.contains("a: as it was built"), "{}", told.data);
        let one_of_two = ImageCommandError::Damaged { damaged: 1, all: 2 };
        assert_eq!(told.fault.unwrap().to_string(), one_of_two.to_string());
        let gc = ImageCommand::Gc {
            keep: 1,
            dry_run: false,
        };
        let told = run_in(folder, gc).unwrap().words;
        assert!(told.starts_with("b stays"), "{told}");
        let name = "a".to_owned();
        run_in(folder, ImageCommand::Retire { name }).unwrap();
    }

    #[test]
    fn names_and_faults_neither_drive_a_terminal_nor_forge_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let hostile = "x\u{1b}[31m\nb 26 in use";
        let image = folder.join("images").join(hostile);
        write_image(&image, "26");
        std::fs::write(
            image.join("manifest.sha256"),
            "\u{1b}[31mzz  manifest.json\n",
        )
        .unwrap();
        write_image(&folder.join("images/a\u{1b}[2J"), "26");
        let format = ReportFormat::Text;
        let gc = ImageCommand::Gc {
            keep: 1,
            dry_run: true,
        };
        for command in [
            ImageCommand::List { format },
            ImageCommand::Verify { names: Vec::new() },
            gc,
        ] {
            let Told { data, words, .. } = run_in(folder, command).unwrap();
            for text in [data, words] {
                assert!(
                    !text.contains('\u{1b}') && !text.contains("\nb 26"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_name_is_no_way_to_somewhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_image(&folder.join("outside"), "26");
        write_image(&folder.join("images/a"), "26");
        for name in [
            "../outside",
            "b",
            "",
            ".",
            "..",
            "a/../../outside",
            "/etc",
            "\u{1b}[2J",
        ] {
            let name = name.to_owned();
            for command in [
                ImageCommand::Retire { name: name.clone() },
                ImageCommand::Verify {
                    names: vec![name.clone()],
                },
            ] {
                let error = run_in(folder, command).unwrap_err();
                assert!(
                    matches!(error, ImageCommandError::NoSuch { .. }),
                    "{name}: {error:?}"
                );
                assert!(!error.to_string().contains('\u{1b}'));
            }
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3);
    }
}
