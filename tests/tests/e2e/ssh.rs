//! Logging in on a leased machine, with the program's own client and with OpenSSH's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use e2e::docker::BUSYBOX;
use e2e::process::{bounded, said, succeed, text};
use e2e::{Cli, TestServer, until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server, a lease that the program itself has made, and what it said about it.
struct Holder {
    server: TestServer,
    cli: Cli,
    lease: serde_json::Value,
}

impl Holder {
    fn new() -> Self {
        let server = TestServer::start();
        let cli = server.cli();
        let lease = serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
        Self { server, cli, lease }
    }

    fn id(&self) -> &str {
        self.lease["lease_id"].as_str().unwrap()
    }

    /// The folder with the keys.
    fn keys(&self) -> PathBuf {
        self.lease["docker_cert_path"].as_str().unwrap().into()
    }

    /// `setup-remote-docker ssh --lease LEASE ARGS`, not run yet.
    fn ssh<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = self.cli.command(["ssh", "--lease", self.id()]);
        command.args(args);
        command
    }

    /// A file that makes OpenSSH's programs reach the machine.
    fn config(&self) -> PathBuf {
        let path = self.server.root().join("lease.conf");
        fs::write(&path, self.cli.ok(["ssh-config", self.id()])).unwrap();
        path
    }

    /// A program of OpenSSH with that file.
    fn openssh(&self, program: &str) -> Command {
        let mut command = bounded(PATIENCE, program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.cli.home())
            .arg("-F")
            .arg(self.config());
        command
    }

    fn stop(self) {
        self.cli.ok(["stop", self.id()]);
        assert_eq!(self.cli.files(), Vec::<PathBuf>::new());
        self.server.wait_clean();
    }
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to_child = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside reading what comes back, which would fill the pipe.
    let sending = std::thread::spawn(move || to_child.write_all(&input));
    let output = child.wait_with_output().unwrap();
    sending.join().unwrap().unwrap();
    output
}

#[test]
fn a_command_has_its_own_streams_and_exit_code() {
    let holder = Holder::new();
    let script = "hostname; echo oops >&2; exit 5";
    let done = holder.ssh(["--", script]).output().unwrap();
    assert_eq!(done.status.code(), Some(5), "{}", said(&done));
    let vm = text(&done.stdout);
    assert!(vm.starts_with("vm-"), "{}", said(&done));
    assert_eq!(text(&done.stderr), "oops", "{}", said(&done));

    // Its input ends when ours does, and megabytes arrive whole both ways.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let done = with_input(holder.ssh(["cat"]), &sent);
    assert!(
        done.status.success() && done.stdout == sent,
        "{}",
        done.stdout.len()
    );

    let done = holder.ssh(["kill -TERM $$"]).output().unwrap();
    assert_eq!(done.status.code(), Some(128 + 15), "{}", said(&done));
    holder.stop();
}

#[test]
fn a_signal_reaches_the_command() {
    let holder = Holder::new();
    let mut command = holder.cli.bare([
        "ssh",
        "--lease",
        holder.id(),
        "--",
        "echo begun; exec sleep 100",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    read_until(&mut screen_of(&mut child), "begun");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(128 + 15));
    holder.stop();
}

/// Nobody reads what it prints, so that it cannot print on; a signal ends it all the same.
#[test]
fn a_signal_ends_it_although_nobody_takes_the_output() {
    let holder = Holder::new();
    let mut command = holder
        .cli
        .bare(["ssh", "--lease", holder.id(), "--", "yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pipe = child.stdout.take().unwrap();
    // The other end of it, to ask whether there is room.
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let end = fs::File::options().write(true).open(path).unwrap();
    let has_room = || {
        let mut asked = [PollFd::new(end.as_fd(), PollFlags::POLLOUT)];
        poll(&mut asked, PollTimeout::ZERO).unwrap() > 0
    };
    until("the pipe is full", PATIENCE, has_room, |room| !room);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let code = until(
        "it has ended",
        PATIENCE,
        || child.try_wait().unwrap(),
        Option::is_some,
    );
    assert_eq!(code.unwrap().code(), Some(128 + 15));
    holder.stop();
}

fn screen_of(child: &mut Child) -> BufReader<ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}

/// Reads up to a line that ends so.
fn read_until(screen: &mut impl BufRead, end: &str) -> String {
    let mut seen = String::new();
    while !seen.trim_end().ends_with(end) {
        let read = screen.read_line(&mut seen).unwrap();
        assert!(read > 0, "no {end} in {seen:?}");
    }
    seen
}

#[test]
fn a_shell_has_a_terminal_that_follows_this_one() {
    let holder = Holder::new();
    let mark = holder.server.root().join("resize");
    let program = holder.cli.program().display();
    // `script` gives the program a terminal; what is resized is the one on this side.
    let inner = format!(
        "stty rows 33 cols 91; mine=$(tty)\n\
         (until [ -e '{mark}' ]; do sleep 0.1; done; stty rows 40 cols 100 <\"$mine\") &\n\
         exec {program} ssh --lease {}",
        holder.id(),
        mark = mark.display(),
    );
    let mut command = bounded(PATIENCE, "script");
    command.args(["--quiet", "--return", "--command", &inner, "/dev/null"]);
    holder.cli.environment(&mut command);
    let mut child = command
        .env("TERM", "vt100")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), screen_of(&mut child));
    keyboard
        .write_all(b"trap 'stty size; echo resized' WINCH; echo \"$TERM $(stty size)\" ready\n")
        .unwrap();
    // What is typed is shown as well, so the end of the line must be what only the answer has.
    let seen = read_until(&mut screen, "vt100 33 91 ready");
    assert!(seen.contains("trap"), "no echo: {seen}");
    fs::write(&mark, "").unwrap();
    // The trap runs when the shell has read another line.
    keyboard.write_all(b"\n").unwrap();
    let seen = read_until(&mut screen, "resized");
    assert!(seen.contains("40 100"), "{seen}");
    // Ctrl-C is the remote command's, not ours. What is typed before it is thrown away by the terminal.
    let endless = "sh -c 'trap \"echo interrupted; exit 1\" INT; echo be\"\"gun; while :; do sleep 1; done'\n";
    keyboard.write_all(endless.as_bytes()).unwrap();
    read_until(&mut screen, "begun");
    keyboard.write_all(b"\x03").unwrap();
    read_until(&mut screen, "interrupted");
    keyboard.write_all(b"exit 3\n").unwrap();
    drop(keyboard);
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{rest}");
    holder.stop();
}

#[test]
fn openssh_and_what_builds_on_it_reach_the_machine() {
    let holder = Holder::new();
    let answer = succeed(holder.openssh("ssh").args(["remote-docker", "hostname"]));
    assert!(answer.starts_with("vm-"), "{answer}");
    let by_id = succeed(holder.openssh("ssh").args([holder.id(), "hostname"]));
    assert_eq!(by_id, answer);

    let folder = holder.server.root().join("files");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/note"), "copied\n").unwrap();
    succeed(holder.openssh("scp").args([
        "-q",
        "-r",
        folder.to_str().unwrap(),
        "remote-docker:/tmp/scp",
    ]));
    let mut rsync = bounded(PATIENCE, "rsync");
    let config = holder.config();
    rsync
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", holder.cli.home())
        .args(["-a", "-e", &format!("ssh -F {}", config.display())])
        .args([
            "remote-docker:/tmp/scp/",
            &format!("{}/back/", folder.display()),
        ]);
    succeed(&mut rsync);
    let note = fs::read_to_string(folder.join("back/sub/note")).unwrap();
    assert_eq!(note, "copied\n");
    holder.stop();
}

#[test]
fn a_published_port_is_reached_through_a_forwarded_one() {
    let holder = Holder::new();
    let host = holder.lease["docker_host"].as_str().unwrap();
    let docker = holder.server.docker().at(host, &holder.keys());
    docker.import_busybox();
    let serve = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    docker.ok(["run", "-d", "-p", "8080:80", BUSYBOX, "sh", "-c", serve]);
    let mut child = holder
        .cli
        .bare([
            "ssh",
            "--lease",
            holder.id(),
            "-N",
            "-L",
            "18080:localhost:8080",
        ])
        .spawn()
        .unwrap();
    let get = || {
        // The test's server lives in a network namespace of its own, as the test does.
        let mut tcp = TcpStream::connect(("127.0.0.1", 18080)).ok()?;
        tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        tcp.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let served =
        |answer: &Option<String>| answer.as_ref().is_some_and(|it| it.ends_with("served\n"));
    until("the page comes", PATIENCE, get, served);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    holder.stop();
}

#[test]
fn a_machine_that_is_kept_can_be_looked_into_and_goes_by_itself() {
    let holder = Holder::new();
    succeed(&mut holder.ssh(["echo evidence > /tmp/evidence"]));
    holder.cli.ok(["stop", "--keep-for", "20s", holder.id()]);
    let seen = succeed(&mut holder.ssh(["cat", "/tmp/evidence"]));
    assert_eq!(seen, "evidence");
    // Nobody gives it back.
    until(
        "no lease is left",
        PATIENCE,
        || holder.server.api().list(),
        Vec::is_empty,
    );
    holder.stop();
}

#[test]
fn another_machine_than_the_leases_is_not_talked_to() {
    let holder = Holder::new();
    let other = Holder {
        lease: serde_json::from_str(&holder.cli.ok(["start", "--format", "json"])).unwrap(),
        cli: holder.cli.clone(),
        server: holder.server,
    };
    let mine = &holder.lease;
    let (keys, others) = (
        PathBuf::from(mine["docker_cert_path"].as_str().unwrap()),
        other.keys(),
    );
    let ssh = |args: &str| {
        let id = mine["lease_id"].as_str().unwrap();
        let done = other.cli.command(["ssh", "--lease", id, args]).output();
        done.unwrap()
    };
    assert!(ssh("true").status.success());

    // The server's word about the host key is what counts.
    let note = fs::read_to_string(keys.join("lease.json")).unwrap();
    let key_of = |folder: &PathBuf| {
        let note = fs::read_to_string(folder.join("lease.json")).unwrap();
        let note: serde_json::Value = serde_json::from_str(&note).unwrap();
        note["ssh"]["host_key"].as_str().unwrap().to_owned()
    };
    assert_ne!(key_of(&keys), key_of(&others));
    fs::write(
        keys.join("lease.json"),
        note.replace(&key_of(&keys), &key_of(&others)),
    )
    .unwrap();
    let done = ssh("true");
    assert_eq!(done.status.code(), Some(76), "{}", said(&done));
    assert!(
        text(&done.stderr).contains("another SSH host key"),
        "{}",
        said(&done)
    );
    fs::write(keys.join("lease.json"), note).unwrap();

    // Keys of another lease open nothing.
    for name in ["cert.pem", "key.pem"] {
        fs::copy(others.join(name), keys.join(name)).unwrap();
    }
    let done = ssh("true");
    assert_eq!(done.status.code(), Some(76), "{}", said(&done));
    other.cli.ok(["stop", mine["lease_id"].as_str().unwrap()]);
    other.stop();
}
