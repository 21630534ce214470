//! The agent of a simulated guest: the real protocol, a real key, no machine.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::{
    Activated, Activation, Activity, Call, Event, Fault, FaultCode, FromGuest, Hello, LineDecoder,
    Logs, Phase, Reply, Request, Status, VERSION, encode,
};
use rcgen::{CertificateParams, DnType, KeyPair};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::{Manners, SimFault};
use crate::clock::Clock;

/// What a simulated guest tells while it behaves, and what it was asked. Tests may change it at any
/// time.
#[derive(Debug, Clone)]
pub struct SimGuest {
    /// What is done with it.
    pub activity: Activity,
    /// When a byte of its API last moved. With it, `activity.idle_ms` is told from it.
    pub used_at: Option<OffsetDateTime>,
    /// When it was asked first how it is.
    asked_since: Option<OffsetDateTime>,
    /// The longest that nothing had been done with it when it was asked, in milliseconds.
    pub most_idle_ms: u64,
    /// Whether it told an identity that was not its own.
    pub lied: bool,
    /// Whether its Docker daemon answers.
    pub docker_answers: bool,
    /// The end of its daemon's log.
    pub dockerd_log: String,
    /// How many frames came from the server.
    pub frames: u32,
    /// How often it was asked how it is.
    pub asked: u32,
    /// What was written on its console.
    pub notices: Vec<String>,
    /// What its clock shows, in nanoseconds since 1970; it stands still. `None` for an agent that does not tell.
    pub clock_ns: Option<u64>,
    /// By how much its clock was moved, each time.
    pub clock_moves: Vec<i64>,
    /// What it is going to say unasked, before its next answer.
    pub says: Vec<Event>,
}

impl SimGuest {
    /// What it answers at `now` when it is asked how it is.
    fn status(&mut self, phase: Phase, now: OffsetDateTime) -> Status {
        self.asked += 1;
        let mut activity = self.activity;
        if let Some(used_at) = self.used_at {
            let idle = (now - used_at).whole_milliseconds();
            activity.idle_ms = Some(u64::try_from(idle).unwrap_or_default());
        }
        let asked_since = *self.asked_since.get_or_insert(now);
        if !activity.works() && self.docker_answers {
            let idle = (now - self.used_at.unwrap_or(asked_since)).whole_milliseconds();
            let idle_ms = u64::try_from(idle).unwrap_or_default();
            self.most_idle_ms = self.most_idle_ms.max(idle_ms);
        }
        Status {
            phase,
            docker_answers: self.docker_answers,
            docker_restarts: 0,
            activity,
            unix_time_ns: self.clock_ns,
        }
    }
}

impl Default for SimGuest {
    /// Well, and never used.
    fn default() -> Self {
        Self {
            activity: Activity {
                containers_running: Some(0),
                ..Activity::default()
            },
            used_at: None,
            asked_since: None,
            most_idle_ms: 0,
            lied: false,
            docker_answers: true,
            dockerd_log: String::new(),
            frames: 0,
            asked: 0,
            notices: Vec::new(),
            clock_ns: None,
            clock_moves: Vec::new(),
            says: Vec::new(),
        }
    }
}

pub(super) struct SimAgent {
    phase: Mutex<Phase>,
    manners: watch::Sender<Manners>,
    guest: Arc<Mutex<SimGuest>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SimAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimAgent")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl SimAgent {
    pub(super) fn new(cloned: bool, clock: Arc<dyn Clock>) -> Self {
        let phase = if cloned {
            Phase::Quiesced
        } else {
            Phase::Ready
        };
        Self {
            phase: Mutex::new(phase),
            manners: watch::Sender::default(),
            guest: Arc::default(),
            clock,
        }
    }

    /// Whether it has no identity yet.
    pub(super) fn awaits_activation(&self) -> bool {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*phase, Phase::Ready | Phase::Quiesced)
    }

    /// Behaves so from now on.
    pub(super) fn behave(&self, manners: Manners) {
        self.manners.send_replace(manners);
    }

    /// Looks at what the guest tells and was told, or changes it.
    pub(super) fn guest<T>(&self, change: impl FnOnce(&mut SimGuest) -> T) -> T {
        change(&mut self.guest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn record(&self) -> Arc<Mutex<SimGuest>> {
        self.guest.clone()
    }

    /// Does over one connection what its manners are until it ends.
    pub(super) async fn serve(self: Arc<Self>, mut stream: DuplexStream, fault: Option<SimFault>) {
        let mut decoder = LineDecoder::default();
        let mut manners = self.manners.subscribe();
        loop {
            let now = *manners.borrow_and_update();
            let behaved = async {
                match now {
                    Manners::Good | Manners::Repeats | Manners::Boasts => {
                        self.converse(&mut stream, &mut decoder, fault).await;
                    }
                    Manners::Silent => swallow(&mut stream).await,
                    Manners::Floods => flood(&mut stream).await,
                    Manners::Rubbish => rubbish(&mut stream).await,
                }
            };
            tokio::select! {
                changed = manners.changed() => if changed.is_err() { return },
                () = behaved => return,
            }
        }
    }

    /// Answers what comes.
    async fn converse(
        &self,
        stream: &mut DuplexStream,
        decoder: &mut LineDecoder,
        fault: Option<SimFault>,
    ) {
        let mut buffer = vec![0; 8192];
        loop {
            while let Ok(Some(Request { id, call })) = decoder.next_frame() {
                self.guest(|guest| guest.frames += 1);
                if matches!(call, Call::Activate(_)) {
                    match fault {
                        Some(SimFault::Hangs) => std::future::pending().await,
                        Some(SimFault::Slow(duration)) => tokio::time::sleep(duration).await,
                        _ => {}
                    }
                }
                let manners = *self.manners.borrow();
                let result = match manners {
                    Manners::Boasts => Ok(boast()),
                    _ => self.answer(call, fault),
                };
                for event in self.guest(|guest| std::mem::take(&mut guest.says)) {
                    let Ok(frame) = encode(&FromGuest::Event(event)) else {
                        return;
                    };
                    if stream.write_all(&frame).await.is_err() {
                        return;
                    }
                }
                let Ok(frame) = encode(&FromGuest::Reply { id, result }) else {
                    return;
                };
                let times = if manners == Manners::Repeats { 2 } else { 1 };
                if stream.write_all(&frame.repeat(times)).await.is_err() {
                    return;
                }
            }
            match stream.read(&mut buffer).await {
                Ok(count) if count > 0 && decoder.feed(&buffer[..count]).is_ok() => {}
                _ => return,
            }
        }
    }

    fn answer(&self, call: Call, fault: Option<SimFault>) -> Result<Reply, Fault> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = match (call, *phase) {
            (Call::Hello { .. }, phase) => Reply::Hello(Hello {
                version: VERSION,
                phase,
                boot_id: "simulated".into(),
            }),
            (Call::Quiesce, Phase::Ready) => {
                *phase = Phase::Quiesced;
                Reply::Quiesced
            }
            (Call::Activate(activation), Phase::Ready | Phase::Quiesced) => {
                let activated = match fault {
                    Some(SimFault::Fails | SimFault::FailsAfterwards) => {
                        return Err(failed("was told to fail"));
                    }
                    Some(SimFault::Lies) => {
                        self.guest(|guest| guest.lied = true);
                        Activated {
                            address: Ipv4Addr::UNSPECIFIED,
                            ..self.activate(&activation)?
                        }
                    }
                    _ => self.activate(&activation)?,
                };
                *phase = Phase::Activated;
                Reply::Activated(Box::new(activated))
            }
            (Call::Serve { .. }, Phase::Activated) => {
                *phase = Phase::Serving;
                Reply::Serving
            }
            (Call::Status, phase) => {
                let now = self.clock.now();
                Reply::Status(self.guest(|guest| guest.status(phase, now)))
            }
            (Call::Logs { .. }, _) => Reply::Logs(Logs {
                dockerd: self.guest(|guest| guest.dockerd_log.clone()),
                ..Logs::default()
            }),
            (Call::Notice { message }, _) => {
                self.guest(|guest| guest.notices.push(message));
                Reply::Noticed
            }
            (Call::MoveClock { by_ns }, _) => {
                self.guest(|guest| {
                    guest.clock_moves.push(by_ns);
                    let moved = guest.clock_ns.and_then(|now| now.checked_add_signed(by_ns));
                    guest.clock_ns = moved;
                });
                Reply::ClockMoved
            }
            (_, phase) => {
                return Err(Fault {
                    code: FaultCode::WrongPhase,
                    message: format!("the guest is {phase:?}"),
                });
            }
        };
        Ok(reply)
    }

    fn activate(&self, activation: &Activation) -> Result<Activated, Fault> {
        let key = KeyPair::generate().map_err(|error| failed(&error.to_string()))?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, &activation.hostname);
        let csr_pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(|error| failed(&error.to_string()))?;
        let now = self.clock.wall().unix_timestamp_nanos();
        Ok(Activated {
            csr_pem,
            // A key that nobody holds.
            ssh_host_key: concat!(
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
            )
            .into(),
            hostname: activation.hostname.clone(),
            machine_id: activation.machine_id.clone(),
            address: activation.address,
            unix_time_ns: u64::try_from(now).unwrap_or_default(),
            rng_reseeded: activation.expect_reseed,
            open_connections: 0,
            has_site: true,
        })
    }
}

/// That it serves its holder, which nobody has seen.
fn boast() -> Reply {
    Reply::Hello(Hello {
        version: VERSION,
        phase: Phase::Serving,
        boot_id: "simulated".into(),
    })
}

/// Takes everything and says nothing.
async fn swallow(stream: &mut DuplexStream) {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

/// Says that its daemon ended, as fast as that is taken.
async fn flood(stream: &mut DuplexStream) {
    let event = FromGuest::Event(Event::DaemonExited {
        daemon: "dockerd".into(),
        status: "exit status 1".into(),
    });
    let Ok(frame) = encode(&event) else { return };
    while stream.write_all(&frame).await.is_ok() {}
}

/// Says what is no frame, and then no end of one.
async fn rubbish(stream: &mut DuplexStream) {
    let _ = stream.write_all(b"\xff\0{]\n\n[[[[\n").await;
    while stream.write_all(&[b'{'; 4096]).await.is_ok() {}
}

fn failed(message: &str) -> Fault {
    Fault {
        code: FaultCode::Failed,
        message: message.to_owned(),
    }
}
