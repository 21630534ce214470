//! A server for one test.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remote_docker_api::{CreateLease, Lease, LeaseId, LeaseState, Problem};

use crate::host::Host;
use crate::machine::{ClientKey, Machine};
use crate::seed::Seed;
use crate::setting::{STANDARD_PARENT, Setting, parent};
use crate::wait::{eventually, until};
use crate::{Api, Cli, Docker, evidence, netns};

/// How folders of tests are called.
const PREFIX: &str = "rd-e2e-";

/// Building a template on a machine that does other things too.
const READY_LIMIT: Duration = Duration::from_secs(240);
/// Until nothing of a machine is left. One that was made for a client who went away is kept for the next: a
/// minute from when it is ready, and a busy host may boot it for longer than that.
pub const CLEAN_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// TCP port of the API. Each test has its network namespace for itself.
pub const API_PORT: u16 = 7420;
/// First port of the relay.
pub const RELAY_PORT: u16 = 23760;

/// What a test's server is to be like.
#[derive(Debug)]
pub struct Builder {
    config: serde_json::Value,
    failpoint: Option<String>,
    seeded: bool,
    setting: Setting,
}

/// A running server with a state folder and a network namespace of its own.
#[derive(Debug)]
pub struct TestServer {
    setting: Setting,
    root: PathBuf,
    /// Tells sweepers that this test is alive.
    _alive: Flock<File>,
    child: Option<Child>,
    api: Option<Api>,
    host: Host,
    docker: Docker,
    seed: Option<Seed>,
}

impl Builder {
    /// The usual configuration, with these programs and images.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        Self {
            config: serde_json::json!({
                "http": { "listen": format!("127.0.0.1:{API_PORT}") },
                "relay": { "ports": format!("{RELAY_PORT}-{}", RELAY_PORT + 9) },
                "network": { "uplink": "none" },
                "sizes": { "small": { "vcpus": 2, "memory_mib": 1024 } },
            }),
            failpoint: None,
            seeded: true,
            setting,
        }
    }

    /// Sets a value of the configuration, such as `("lease.max_ttl_s", 60)`.
    ///
    /// # Panics
    /// When the path leads through something that is not a table.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<serde_json::Value>) -> Self {
        let mut at = &mut self.config;
        for name in path.split('.') {
            at = &mut at[name];
        }
        *at = value.into();
        self
    }

    /// Kills the server at this failpoint in its first run.
    #[must_use]
    pub fn failpoint(mut self, name: &str) -> Self {
        self.failpoint = Some(name.to_owned());
        self
    }

    /// Without the template that the tests share: the server builds its own.
    #[must_use]
    pub fn without_shared_template(mut self) -> Self {
        self.seeded = false;
        self
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(self) -> TestServer {
        self.start_until(TestServer::wait_ready)
    }

    /// Starts the server and waits until it is ready, as `ready` sees it.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_until(self, ready: impl FnOnce(&mut TestServer)) -> TestServer {
        let has_site = self.config.get("site").is_some();
        let (mut server, failpoint) = self.prepare();
        let turn = server.seed.as_ref().map(|seed| seed.plant(&server.state()));
        server.spawn(failpoint.as_deref());
        ready(&mut server);
        // A template with a site's settings in it would do for others, after each of their clones had
        // unlearned them.
        if let (Some(seed), Some(turn), false) = (&server.seed, turn, has_site) {
            seed.harvest(&server.state(), turn);
        }
        server
    }

    /// Makes everything ready and starts nothing.
    ///
    /// # Panics
    /// When a folder cannot be made.
    #[must_use]
    pub fn prepare(self) -> (TestServer, Option<String>) {
        sweep_dead_tests();
        netns::enter_new();
        let root = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent());
        let root = root.expect("a folder for the test").keep();
        let alive = own(&root).expect("a new folder is nobody else's");
        fs::set_permissions(&root, PermissionsExt::from_mode(0o711)).expect("its mode");
        let state = root.join("state");
        fs::create_dir(&state).expect("a state folder");
        fs::set_permissions(&state, PermissionsExt::from_mode(0o711)).expect("its mode");
        let mut config = self.config;
        for (name, path) in [("state_dir", &state), ("images_dir", &self.setting.images)] {
            if config.get(name).is_none() {
                config[name] = path.to_str().expect("a path in UTF-8").into();
            }
        }
        let config = toml::to_string(&config).expect("a configuration");
        fs::write(root.join("config.toml"), config).expect("the configuration's file");
        let docker = Docker::new(&self.setting, &root);
        let seed = self.seeded.then(|| Seed::new(self.setting.seeds()));
        let server = TestServer {
            host: Host::new(&state),
            setting: self.setting,
            root,
            _alive: alive,
            child: None,
            api: None,
            docker,
            seed,
        };
        (server, self.failpoint)
    }
}

impl TestServer {
    /// A server with the usual configuration, ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server that is to be configured first.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new(Setting::find())
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Folder of everything that belongs to the test.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where programs and image are.
    #[must_use]
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// What it has on the host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its API.
    ///
    /// # Panics
    /// When it has never been ready.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.api.as_ref().expect("the server was never ready")
    }

    /// The CLI, pointed at it, with files of its own.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::new(
            self.setting.cli(),
            &url(),
            &self.token(),
            self.root.join("home"),
        )
    }

    /// The docker CLI, pointing nowhere.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The bearer token that it made for itself.
    ///
    /// # Panics
    /// When there is none yet.
    #[must_use]
    pub fn token(&self) -> String {
        let token = fs::read_to_string(self.state().join("token"));
        token.expect("the token's file").trim().to_owned()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Leases a machine through the API.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn lease(&self) -> Machine {
        self.lease_for(600)
    }

    /// Leases a machine for so many seconds.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn lease_for(&self, ttl_s: i64) -> Machine {
        let key = ClientKey::generate();
        let mut request = key.request();
        request.ttl_s = Some(ttl_s);
        let lease = self.api().create(&request);
        let lease = lease.unwrap_or_else(|problem| panic!("no lease: {problem:?}"));
        self.hold(lease, &key)
    }

    /// Asks for all of these at once, each over a connection of its own. Answers the leases and how
    /// long each took, or why there is none.
    ///
    /// # Panics
    /// When an answer makes no sense.
    #[must_use]
    pub fn at_once(
        &self,
        requests: Vec<CreateLease>,
    ) -> Vec<Result<(Duration, Lease), Box<Problem>>> {
        let ask = |request: CreateLease| {
            let asked = Instant::now();
            let lease = self.api().create(&request)?;
            Ok((asked.elapsed(), lease))
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = requests
                .into_iter()
                .map(|request| scope.spawn(move || ask(request)))
                .collect();
            let answers = asked.into_iter().map(|thread| thread.join());
            answers.map(|answer| answer.expect("an answer")).collect()
        })
    }

    /// Takes up an active lease.
    #[must_use]
    pub fn hold(&self, lease: Lease, key: &ClientKey) -> Machine {
        assert_eq!(lease.state, LeaseState::Active, "{lease:?}");
        Machine::new(lease, key, &self.root, &self.docker)
    }

    /// Waits until a lease is in this state.
    ///
    /// # Panics
    /// When it does not come there.
    pub fn wait_state(&self, id: LeaseId, state: LeaseState) -> Lease {
        until(
            &format!("{id} becomes {state:?}"),
            CLEAN_LIMIT,
            || self.api().show(id, 0).expect("the lease is known"),
            |lease| lease.state == state,
        )
    }

    /// Waits until nothing of any machine is left on the host.
    ///
    /// # Panics
    /// When something stays.
    pub fn wait_clean(&self) {
        until(
            "nothing of a machine is left",
            CLEAN_LIMIT,
            || self.host.remnants(),
            Vec::is_empty,
        );
        let listening = self.host.listening();
        assert!(
            !listening.iter().any(|port| *port != API_PORT),
            "ports are still open: {listening:?}"
        );
    }

    /// The server's command line, not run yet; its log is a file of the test's folder.
    ///
    /// # Panics
    /// When the log cannot be opened.
    #[must_use]
    pub fn command(&self) -> Command {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("the server's log");
        let mut command = Command::new(self.setting.server());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("RUST_BACKTRACE", "1")
            .args(["serve", "--config"])
            .arg(self.root.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log);
        command
    }

    /// Starts the server.
    ///
    /// # Panics
    /// When it runs already, or cannot be run.
    pub fn spawn(&mut self, failpoint: Option<&str>) {
        assert!(self.child.is_none(), "the server runs already");
        let mut command = self.command();
        if let Some(name) = failpoint {
            command.args(["--failpoint", name]);
        }
        // SAFETY: prctl is a plain system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed must not leave its server behind.
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
            });
        }
        self.child = Some(command.spawn().expect("running the server"));
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Panics
    /// When it does not, or ends instead.
    pub fn wait_ready(&mut self) {
        let token_file = self.state().join("token");
        eventually("the server is ready", READY_LIMIT, || {
            if let Some(status) = self.ended() {
                panic!("the server ended ({status}) before it was ready");
            }
            let token = fs::read_to_string(&token_file).map_err(|error| error.to_string())?;
            let api = Api::new(&url(), token.trim());
            api.ready()?;
            self.api = Some(api);
            Ok::<_, String>(())
        });
    }

    /// How the server ended, if it has.
    ///
    /// # Panics
    /// When the system cannot say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = child.try_wait().expect("asking for the server's end");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// Waits for the server to end by itself.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn wait_ended(&mut self, limit: Duration) -> ExitStatus {
        eventually("the server ends", limit, || self.ended().ok_or("it runs"))
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("the server runs");
        Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
    }

    /// Sends the server a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal to the server");
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_ended(STOP_LIMIT);
    }

    /// Stops it in good order; machines stay.
    ///
    /// # Panics
    /// When it does not end, or not with success.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_ended(STOP_LIMIT);
        assert!(status.success(), "the server ended with {status}");
    }

    /// Starts it again on the same state.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_again(&mut self) {
        self.spawn(None);
        self.wait_ready();
    }

    /// Gives everything back and asserts that nothing is left.
    fn finish(&mut self) {
        if self.child.is_some() && self.api.is_some() {
            for lease in self.api().list() {
                self.api().release(lease.id);
            }
            self.wait_clean();
            self.stop();
        }
        let namespace = self
            .host
            .namespace()
            .map(|name| Path::new("/run/netns").join(name));
        assert!(
            !namespace.as_ref().is_some_and(|path| path.exists()),
            "the network namespace {namespace:?} is left"
        );
        assert_eq!(
            self.host.remnants(),
            Vec::<String>::new(),
            "something is left"
        );
    }

    fn take_away(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.host.sweep();
        // A test may have mounted something over it.
        let _ = nix::mount::umount2(&self.state(), nix::mount::MntFlags::MNT_DETACH);
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let result = if std::thread::panicking() {
            Err(None)
        } else {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish())).map_err(Some)
        };
        if result.is_err() {
            let test = std::thread::current()
                .name()
                .unwrap_or("test")
                .replace("::", "-");
            evidence::keep(&self.root, &self.setting.evidence().join(test));
        }
        self.take_away();
        if let Err(Some(panic)) = result {
            std::panic::resume_unwind(panic);
        }
    }
}

fn url() -> String {
    format!("http://127.0.0.1:{API_PORT}")
}

/// Takes a test's folder, unless the test that made it is still alive.
fn own(root: &Path) -> Option<Flock<File>> {
    let file = File::create(root.join("alive")).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Takes away what tests left that were killed, in this run and in earlier ones.
fn sweep_dead_tests() {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let runs = entries(STANDARD_PARENT.into()).map(|entry| entry.path().join("t"));
    let parents = runs.chain([STANDARD_PARENT.into(), parent()]);
    for entry in parents.flat_map(entries) {
        let root = entry.path();
        // A folder whose test has not come to lock it yet is younger than this.
        let settled = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|changed| {
                changed
                    .elapsed()
                    .is_ok_and(|age| age > Duration::from_secs(5))
            });
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && settled
            && let Some(_alive) = own(&root)
        {
            eprintln!("sweeping {}, which an earlier test left", root.display());
            Host::new(&root.join("state")).sweep();
            let _ = fs::remove_dir_all(&root);
        }
    }
}
