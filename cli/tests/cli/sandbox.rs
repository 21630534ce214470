//! Folders, variables and processes of one test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake::{Fake, TOKEN};

/// Where one test's program lives.
pub(crate) struct Sandbox {
    root: tempfile::TempDir,
    url: String,
}

impl Sandbox {
    pub(crate) fn new(server: &Fake) -> Self {
        Self::at(&server.url)
    }

    pub(crate) fn at(url: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["run", "tmp", "config/setup-remote-docker"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        Self {
            root,
            url: url.to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Where the folders of leases lie.
    pub(crate) fn leases(&self) -> PathBuf {
        self.path("run/setup-remote-docker")
    }

    /// Whether the program left keys or folders behind.
    pub(crate) fn is_clean(&self) -> bool {
        [self.leases(), self.path("tmp")]
            .iter()
            .all(|folder| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()))
    }

    /// The program with these arguments, split at blanks, and no variable but the test's own.
    pub(crate) fn program(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_setup-remote-docker"));
        command.args(args.split_whitespace());
        self.hermetic(&mut command);
        command
    }

    /// Gives a command the test's variables and no other.
    pub(crate) fn hermetic(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm")
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("REMOTE_DOCKER_URL", &self.url)
            .env("REMOTE_DOCKER_TOKEN", TOKEN)
            // What the program would set in a container, as which the tests may run.
            .env("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
            .current_dir(self.root.path())
            .stdin(Stdio::null());
    }

    /// Runs to the end and shows exit status and both outputs, without what differs from run to
    /// run.
    pub(crate) fn show(&self, command: &mut Command) -> String {
        self.shown(&command.output().unwrap())
    }

    pub(crate) fn shown(&self, output: &Output) -> String {
        self.tidy(&format!(
            "{}\n--- stdout\n{}--- stderr\n{}",
            output.status,
            String::from_utf8(output.stdout.clone()).unwrap(),
            String::from_utf8(output.stderr.clone()).unwrap(),
        ))
    }

    pub(crate) fn tidy(&self, text: &str) -> String {
        let root = self.root.path().to_str().unwrap();
        let text = text.replace(root, "[ROOT]").replace(&self.url, "[URL]");
        mask(&mask(&text, " ready in ", " s"), " column ", "\n")
    }

    /// Starts the program with pipes on all three.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }
}

/// A program that is under way.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    /// Waits for this line on standard output.
    pub(crate) fn expect_stdout(&mut self, line: &str) {
        expect(&mut self.stdout, line);
    }

    /// Waits for a line with this text on standard error, and gives it.
    pub(crate) fn expect_stderr(&mut self, text: &str) -> String {
        expect(&mut self.stderr, text)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin.take();
    }

    /// Waits for the end; the outputs are what was not read before.
    pub(crate) fn finish(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.stdout.read_to_end(&mut stdout).unwrap();
        self.stderr.read_to_end(&mut stderr).unwrap();
        Output {
            status: self.child.wait().unwrap(),
            stdout,
            stderr,
        }
    }
}

/// Replaces the number between each pair of these marks: a time, or a place that moves with the
/// length of a signature.
fn mask(text: &str, before: &str, after: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once(before) {
        let (number, _) = tail.split_once(after).unwrap();
        number.parse::<f64>().unwrap();
        masked += &format!("{head}{before}[N]");
        rest = &tail[number.len()..];
    }
    masked + rest
}

fn expect(reader: &mut impl BufRead, text: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        let length = reader.read_line(&mut line).unwrap();
        assert!(length > 0, "the output ended without `{text}`: {seen}");
        if line.contains(text) {
            return line;
        }
        seen += &line;
    }
}

/// Makes an executable file.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
