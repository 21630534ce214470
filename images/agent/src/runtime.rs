//! In the place of `runc`, where a site has a proxy: gives what it starts the proxy's variables, and then
//! becomes `runc` itself.
//!
//! The docker CLI can set them, but only it, and only where somebody wrote them into its configuration. Here
//! they are there for whatever starts a container or a step of a build, and nothing of them is left in an
//! image. What the container's own environment says about a proxy stays as it is.
//!
//! Docker, containerd and BuildKit hand `runc` a bundle (`create` and `run`) or a description of a process
//! (`exec`), in the form of the OCI runtime specification.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use guest_protocol::Proxy;
use serde_json::Value;

use crate::site::files;

/// Where everybody looks for it, in this order. One may be a link to the other.
const RUNC: [&str; 2] = ["/usr/sbin/runc", "/usr/bin/runc"];
/// Where it is when this program stands in its place.
const MOVED: &str = "/usr/libexec/runc";
/// What containers are told, for those who ask.
const PROXY: &str = "/etc/site-proxy.json";
/// This program.
const AGENT: &str = "/usr/sbin/guest-agent";

/// Puts this program in the place of `runc`.
///
/// # Errors
/// A file cannot be moved or written.
pub(crate) fn install(proxy: &Proxy) -> anyhow::Result<()> {
    let text = serde_json::to_vec(proxy).context("cannot write JSON")?;
    files::replace(Path::new(PROXY), &text)?;
    let program = RUNC.iter().find_map(|path| fs::canonicalize(path).ok());
    let program = program.context("the image has no runc")?;
    let moved = || {
        if let Some(folder) = Path::new(MOVED).parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&program, MOVED)?;
        std::os::unix::fs::symlink(AGENT, &program)
    };
    moved().with_context(|| format!("cannot take the place of {}", program.display()))
}

/// Whether the program was called by this name to do this.
pub(crate) fn is_meant(name: Option<&OsStr>) -> bool {
    name.and_then(|name| Path::new(name).file_name())
        .is_some_and(|name| name == "runc")
}

/// Does it. Returns only if `runc` cannot be run.
pub(crate) fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = match adapt(&arguments, Path::new(PROXY)) {
        Ok(()) => Command::new(MOVED).args(arguments).exec().into(),
        Err(error) => error,
    };
    // Whoever started it shows its last words to who asked for a container.
    #[expect(clippy::print_stderr, reason = "this life of the program is a command")]
    {
        eprintln!("runc: {error:#}");
    }
    ExitCode::FAILURE
}

fn adapt(arguments: &[OsString], proxy: &Path) -> anyhow::Result<()> {
    let Some((path, place)) = described(arguments) else {
        return Ok(());
    };
    let text = fs::read(proxy).with_context(|| format!("cannot read {}", proxy.display()))?;
    let proxy: Proxy = serde_json::from_slice(&text).context("cannot understand the proxy")?;
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut described: Value = serde_json::from_slice(&text)
        .with_context(|| format!("cannot understand {}", path.display()))?;
    let process = match place {
        Place::Bundle => described.get_mut("process"),
        Place::Process => Some(&mut described),
    };
    // A bundle need not say what is to be run.
    let Some(process) = process else {
        return Ok(());
    };
    add(process, &proxy)?;
    let text = serde_json::to_vec(&described).context("cannot write JSON")?;
    // In place: its owner and mode are somebody else's choice.
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What a file describes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Bundle,
    Process,
}

/// Global options of `runc` that take a value as a word of its own.
const WITH_VALUE: [&str; 4] = ["--root", "--log", "--log-format", "--rootless"];

/// The file that says what is to be started, if something is.
fn described(arguments: &[OsString]) -> Option<(PathBuf, Place)> {
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    let verb = loop {
        let word = words.next()?;
        if WITH_VALUE.contains(&&*word) {
            words.next();
        } else if !word.starts_with('-') {
            break word;
        }
    };
    let (long, short, place) = match &*verb {
        "create" | "run" => ("--bundle", "-b", Place::Bundle),
        "exec" => ("--process", "-p", Place::Process),
        _ => return None,
    };
    let mut value = None;
    while let Some(word) = words.next() {
        if *word == *long || *word == *short {
            value = words.next();
        } else if let Some(given) = word
            .strip_prefix(long)
            .and_then(|rest| rest.strip_prefix('='))
        {
            value = Some(given.to_owned().into());
        }
    }
    match place {
        // Without the option, a bundle is where the caller stands.
        Place::Bundle => {
            let folder = value.map_or_else(|| ".".into(), std::borrow::Cow::into_owned);
            Some((Path::new(&folder).join("config.json"), place))
        }
        Place::Process => Some((value?.into_owned().into(), place)),
    }
}

fn add(process: &mut Value, proxy: &Proxy) -> anyhow::Result<()> {
    let Some(process) = process.as_object_mut() else {
        bail!("a process that is none was to be started");
    };
    let environment = process
        .entry("env")
        .or_insert_with(|| Value::Array(Vec::new()));
    if environment.is_null() {
        *environment = Value::Array(Vec::new());
    }
    let Some(environment) = environment.as_array_mut() else {
        bail!("an environment that is none was given");
    };
    let except = proxy.except.join(",");
    for (name, value) in [
        ("HTTP_PROXY", proxy.http.as_deref()),
        ("HTTPS_PROXY", proxy.https.as_deref()),
        ("NO_PROXY", Some(&*except)),
    ] {
        let Some(value) = value else { continue };
        let is_set = environment.iter().filter_map(Value::as_str).any(|entry| {
            let said = entry.split('=').next().unwrap_or_default();
            said.eq_ignore_ascii_case(name)
        });
        if !is_set {
            // Programs differ in which of the two they read.
            for name in [name.to_owned(), name.to_lowercase()] {
                environment.push(format!("{name}={value}").into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn proxy() -> Proxy {
        Proxy {
            http: Some("http://proxy:3128".into()),
            https: None,
            except: vec!["localhost".into(), ".lan".into()],
        }
    }

    #[test]
    fn what_is_to_be_started_is_found() {
        // As containerd's shim and BuildKit call it.
        for (line, path, place) in [
            (
                "--root /run/r --log /run/l.json --log-format json create --bundle /run/b --pid-file /run/p c1",
                "/run/b/config.json",
                Place::Bundle,
            ),
            (
                "--log /l --log-format json run --bundle /b --keep c1",
                "/b/config.json",
                Place::Bundle,
            ),
            (
                "--systemd-cgroup run -b /b c1",
                "/b/config.json",
                Place::Bundle,
            ),
            (
                "--log=/create create --bundle=/b c1",
                "/b/config.json",
                Place::Bundle,
            ),
            ("create c1", "./config.json", Place::Bundle),
            (
                "--root /r exec --process /p.json --detach c1",
                "/p.json",
                Place::Process,
            ),
        ] {
            assert_eq!(
                described(&words(line)),
                Some((path.into(), place)),
                "{line}"
            );
        }
        for line in [
            "",
            "--version",
            "--root create state c1",
            "delete --force create",
            "exec c1 sh",
        ] {
            assert_eq!(described(&words(line)), None, "{line}");
        }
    }

    #[test]
    fn what_a_container_says_itself_stays() {
        let mut process = json!({ "env": ["PATH=/bin", "no_proxy=mine"] });
        add(&mut process, &proxy()).unwrap();
        assert_eq!(
            process["env"],
            json!([
                "PATH=/bin",
                "no_proxy=mine",
                "HTTP_PROXY=http://proxy:3128",
                "http_proxy=http://proxy:3128"
            ])
        );
        let mut process = json!({ "env": null });
        add(&mut process, &proxy()).unwrap();
        assert_eq!(process["env"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn nothing_else_of_a_bundle_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (bundle, told) = (
            folder.path().join("config.json"),
            folder.path().join("proxy.json"),
        );
        fs::write(&told, serde_json::to_vec(&proxy()).unwrap()).unwrap();
        let said = json!({ "ociVersion": "1.0", "process": { "cwd": "/", "env": [] }, "linux": { "x": 1 } });
        fs::write(&bundle, said.to_string()).unwrap();
        let line = format!("run --bundle {} c1", folder.path().display());
        adapt(&words(&line), &told).unwrap();
        let mut now: Value = serde_json::from_slice(&fs::read(&bundle).unwrap()).unwrap();
        assert_eq!(now["process"]["env"].as_array().unwrap().len(), 4);
        now["process"]["env"] = json!([]);
        assert_eq!(now, said);
    }

    #[test]
    fn it_is_meant_by_its_name() {
        for (name, meant) in [
            ("/usr/bin/runc", true),
            ("runc", true),
            ("/init", false),
            ("/usr/sbin/guest-agent", false),
        ] {
            assert_eq!(is_meant(Some(OsStr::new(name))), meant, "{name}");
        }
        assert!(!is_meant(None));
    }
}
