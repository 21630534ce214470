//! QEMU's own language (QMP) and the agent's, each over a socket that QEMU listens on.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::{Call, Event, FromGuest, Phase, Reply, Request, VERSION};
use serde_json::{Value, json};

/// How long anything may take here.
const LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at something that has no other way to be waited for.
const PACE: Duration = Duration::from_millis(1);

/// One line each way.
#[derive(Debug)]
struct Lines {
    reader: BufReader<UnixStream>,
}

impl Lines {
    /// Connects as soon as somebody listens.
    fn connect(path: &Path) -> Self {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
                    let reader = BufReader::new(stream);
                    return Self { reader };
                }
                Err(error) => assert!(
                    begun.elapsed() < LIMIT,
                    "nobody listens on {}: {error}",
                    path.display()
                ),
            }
            std::thread::sleep(PACE);
        }
    }

    fn say(&mut self, line: &[u8]) {
        self.reader.get_mut().write_all(line).expect("a listener");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).expect("an answer");
        assert!(length > 0, "QEMU has ended");
        line
    }
}

/// A connection to QEMU.
#[derive(Debug)]
pub(super) struct Monitor(Lines);

impl Monitor {
    pub(super) fn connect(path: &Path) -> Self {
        let mut monitor = Self(Lines::connect(path));
        monitor.0.hear();
        monitor.ask("qmp_capabilities", None);
        monitor
    }

    /// Loads the state of the devices, as the server has it done.
    pub(super) fn load(&mut self, state: &Path) {
        let ignore =
            json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.ask("migrate-set-capabilities", Some(ignore));
        let uri = json!({ "uri": format!("file:{}", state.display()) });
        self.ask("migrate-incoming", Some(uri));
        let begun = Instant::now();
        loop {
            let answer = self.ask("query-migrate", None);
            match answer["status"].as_str() {
                Some("completed") => return,
                Some("failed") => panic!("QEMU does not take the state: {answer}"),
                _ => assert!(begun.elapsed() < LIMIT, "the state is not loaded: {answer}"),
            }
            std::thread::sleep(PACE);
        }
    }

    /// Lets the processors run.
    pub(super) fn go(&mut self) {
        self.ask("cont", None);
    }

    /// How many blocks of the guest's instructions QEMU has translated; `None` with hardware virtualization.
    pub(super) fn translated(&mut self) -> Option<u64> {
        let line = json!({ "command-line": "info jit" });
        let answer = self.ask("human-monitor-command", Some(line));
        let text = answer.as_str().expect("text");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("TB count"))?;
        let number = count.split_whitespace().next().expect("a number");
        Some(number.parse().expect("a number"))
    }

    fn ask(&mut self, name: &str, arguments: Option<Value>) -> Value {
        let mut command = json!({ "execute": name });
        if let Some(arguments) = arguments {
            command["arguments"] = arguments;
        }
        self.0.say(format!("{command}\n").as_bytes());
        loop {
            let line = self.0.hear();
            let mut answer: Value = serde_json::from_str(&line).expect("JSON of QEMU");
            assert!(answer.get("error").is_none(), "{name}: {line}");
            if let Some(result) = answer.get_mut("return") {
                return result.take();
            }
        }
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub(super) struct Agent {
    lines: Lines,
    next: u64,
}

impl Agent {
    pub(super) fn connect(path: &Path) -> Self {
        let mut lines = Lines::connect(path);
        // Ends whatever was left half written.
        lines.say(b"\n");
        Self { lines, next: 1 }
    }

    /// Waits until the guest's Docker daemon answers the agent.
    pub(super) fn wait_docker(&mut self) {
        let begun = Instant::now();
        loop {
            match self.ask(Call::Status) {
                Reply::Status(status) if status.docker_answers => return,
                other => assert!(begun.elapsed() < LIMIT, "Docker does not answer: {other:?}"),
            }
        }
    }

    /// Waits until a guest that boots has a Docker daemon.
    pub(super) fn wait_booted(&mut self) {
        self.ask(Call::Hello { version: VERSION });
        self.ask(Call::Prepare(Box::default()));
        loop {
            if let FromGuest::Event(Event::Phase(Phase::Ready)) = self.hear() {
                return;
            }
        }
    }

    /// The agent's answer to a call that it takes.
    pub(super) fn ask(&mut self, call: Call) -> Reply {
        let id = self.next;
        self.next += 1;
        let frame = guest_protocol::encode(&Request { id, call }).expect("a frame");
        self.lines.say(&frame);
        loop {
            match self.hear() {
                FromGuest::Reply { id: of, result } if of == id => {
                    return result.unwrap_or_else(|fault| panic!("the agent: {fault}"));
                }
                _ => {}
            }
        }
    }

    fn hear(&mut self) -> FromGuest {
        loop {
            let line = self.lines.hear();
            if !line.trim().is_empty() {
                return serde_json::from_str(&line).expect("a frame of the agent");
            }
        }
    }
}
