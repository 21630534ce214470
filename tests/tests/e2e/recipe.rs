//! The recipe of images: what it refuses, and what it leaves when it is interrupted.

mod archives;

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::process::{bounded, run, said, succeed};
use e2e::setting::Setting;
use e2e::until;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Beyond any build whose packages were fetched before; four of them fit into what a test may take.
const PATIENCE: Duration = Duration::from_secs(150);

fn script() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/build.sh");
    path.canonicalize().unwrap()
}

#[test]
fn a_definition_that_cannot_be_meant_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = "Suite: trixie\nEngine: docker.io\nPackages: docker.io runc\nClient: docker-cli\n";
    let refused = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let out = folder.path().join("out");
        let mut build = bounded(PATIENCE, script());
        let output = run(build
            .args(["--agent", "/nowhere", "--definition"])
            .arg(&path)
            .arg("--out")
            .arg(&out));
        assert!(!output.status.success(), "{text}");
        assert!(!out.exists());
        said(&output)
    };
    for (text, line, why) in [
        (
            good.replace("Suite: trixie", "Suite: ../x"),
            1,
            "\"../x\" is not the name of a Debian suite",
        ),
        (good.replace("Suite: trixie\n", ""), 3, "Suite is missing"),
        (
            good.replace("Engine: docker.io", "Engine: docker.io; rm"),
            2,
            "is not a list of packages",
        ),
        (
            good.replace("Packages: docker.io runc", "Packages: runc"),
            4,
            "Packages does not name docker.io",
        ),
        (
            good.replace("Packages: docker.io", "Packages: $(id)"),
            3,
            "is not a list of packages",
        ),
        (
            good.replace("Client: docker-cli\n", ""),
            3,
            "Client is missing",
        ),
        (
            format!("{good}Source: https://example.org/"),
            5,
            "a source begins with \"deb \"",
        ),
        (
            format!("{good}Aliases: edge"),
            5,
            "there is no key \"Aliases\"",
        ),
        (
            format!("# words\n\n{good}words"),
            7,
            "\"words\" is not \"Key: value\"",
        ),
    ] {
        let words = refused("x.image", &text);
        let place = format!("x.image, line {line}: ");
        assert!(
            words.contains(&place) && words.contains(why),
            "{text}: {words}"
        );
    }
    // What is right in it is not what it stumbles over.
    assert!(refused("x.image", good).contains("the agent /nowhere is not an executable file"));
    assert!(refused("X Y.image", good).contains("should be called NAME.image"));
}

/// A folder to build in, with the root file system that was made before.
struct Bench {
    folder: tempfile::TempDir,
    setting: Setting,
}

impl Bench {
    fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().unwrap(),
            setting: Setting::find(),
        };
        let there = this.setting.image().parent().unwrap().join(".cache");
        let cache = this.folder.path().join("cache");
        fs::create_dir(&cache).unwrap();
        for entry in fs::read_dir(there).unwrap() {
            let name = entry.as_ref().unwrap().file_name();
            if name.to_str().unwrap().starts_with("rootfs-trixie-") {
                fs::copy(entry.unwrap().path(), cache.join(name)).unwrap();
            }
        }
        this
    }

    fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    fn build(&self, epoch: &str) -> Command {
        let mut build = bounded(PATIENCE, script());
        build
            .arg("--agent")
            .arg(self.setting.agent())
            .arg("--cache")
            .arg(self.folder.path().join("cache"))
            .arg("--out")
            .arg(self.images().join("trixie"))
            .env("SOURCE_DATE_EPOCH", epoch);
        build
    }

    /// Begins a build and ends it, with all that it runs, while it writes the image.
    fn interrupted(&self, epoch: &str) {
        let mut build = self.build(epoch);
        let mut build = build
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (_, ended) = until(
            "the image is being written",
            PATIENCE,
            || {
                (
                    self.images().join("trixie.new").exists(),
                    build.try_wait().unwrap(),
                )
            },
            |(begun, ended)| *begun || ended.is_some(),
        );
        assert!(
            ended.is_none(),
            "the build ended before it could be interrupted: {ended:?}"
        );
        let group = Pid::from_raw(i32::try_from(build.id()).unwrap());
        killpg(group, Signal::SIGKILL).unwrap();
        // It may also have ended between the look and the signal.
        let status = build.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
        // Its lock is free when the last of them is gone.
    }

    /// `remote-dockerd image`.
    fn image(&self, args: &[&str]) -> Command {
        let mut command = bounded(PATIENCE, self.setting.server());
        command
            .env_clear()
            .arg("image")
            .args(args)
            .arg("--images-dir")
            .arg(self.images());
        command
    }
}

#[test]
fn an_interrupted_build_leaves_nothing_that_looks_like_an_image() {
    let bench = Bench::new();
    let listed = || succeed(&mut bench.image(&["list", "--format", "json"]));
    bench.interrupted("1700000000");
    assert_eq!(listed().trim(), "[]");

    // The next one sweeps what is left, and is whole.
    succeed(&mut bench.build("1700000000"));
    let whole = || {
        let list: serde_json::Value = serde_json::from_str(&listed()).unwrap();
        let [image] = &list.as_array().unwrap()[..] else {
            panic!("{list}")
        };
        succeed(&mut bench.image(&["verify"]));
        image["digest"].as_str().unwrap().to_owned()
    };
    let digest = whole();
    assert!(!bench.images().join("trixie.new").exists());

    // One that was to take its place leaves it as it is.
    bench.interrupted("1700000001");
    assert_eq!(whole(), digest);

    // The same inputs give the same image, to the last byte.
    fs::remove_dir_all(bench.images().join("trixie")).unwrap();
    succeed(&mut bench.build("1700000000"));
    assert_eq!(whole(), digest);
}
