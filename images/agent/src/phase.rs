//! How far the guest is, and what it may be asked for then.
//!
//! ```text
//! Booting ──docker answers──▶ Ready ──Quiesce──▶ Quiesced ─┐
//!                               └────────Activate──────────┴──▶ Activated ──Serve──▶ Serving
//! ```
//!
//! `Booting` goes on to a daemon that is started when `Prepare` has come. Only forward. A call that fails leaves the phase as it was; the server then destroys the guest.

use std::sync::{Mutex, PoisonError};

use guest_protocol::{Call, Fault, FaultCode, Phase};

/// The phase, written by the channel's service and, once, by the watch over the daemon.
pub(crate) struct PhaseCell(Mutex<Phase>);

impl Default for PhaseCell {
    fn default() -> Self {
        Self(Mutex::new(Phase::Booting))
    }
}

impl PhaseCell {
    pub(crate) fn get(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on to `next`. `false` if that is no step forward from here; then nothing changed.
    pub(crate) fn advance(&self, next: Phase) -> bool {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let legal = may_follow(*phase, next);
        if legal {
            *phase = next;
        }
        legal
    }
}

fn may_follow(now: Phase, next: Phase) -> bool {
    use Phase::{Activated, Booting, Quiesced, Ready, Serving};
    matches!(
        (now, next),
        (Booting, Ready) | (Ready, Quiesced) | (Ready | Quiesced, Activated) | (Activated, Serving)
    )
}

/// The phase that a call leads to; `None` for one that changes nothing.
pub(crate) fn target(call: &Call) -> Option<Phase> {
    match call {
        Call::Hello { .. }
        | Call::Prepare(_)
        | Call::Status
        | Call::Logs { .. }
        | Call::Notice { .. }
        | Call::MoveClock { .. } => None,
        Call::Quiesce => Some(Phase::Quiesced),
        Call::Activate(_) => Some(Phase::Activated),
        Call::Serve { .. } => Some(Phase::Serving),
    }
}

/// Whether `call` is allowed in phase `now`.
///
/// # Errors
/// [`FaultCode::WrongPhase`].
pub(crate) fn admit(now: Phase, call: &Call) -> Result<(), Fault> {
    match target(call) {
        Some(next) if !may_follow(now, next) => Err(Fault {
            code: FaultCode::WrongPhase,
            message: format!("a guest that is {now:?} cannot become {next:?}"),
        }),
        None if matches!(call, Call::Prepare(_)) && now != Phase::Booting => Err(Fault {
            code: FaultCode::WrongPhase,
            message: format!("the Docker daemon of a guest that is {now:?} was started before"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use guest_protocol::{Activation, Live};
    use proptest::prelude::*;

    use super::*;

    const PHASES: [Phase; 5] = [
        Phase::Booting,
        Phase::Ready,
        Phase::Quiesced,
        Phase::Activated,
        Phase::Serving,
    ];

    fn calls() -> [Call; 8] {
        let activation = Activation {
            hostname: "vm".into(),
            machine_id: "0".repeat(32),
            address: Ipv4Addr::LOCALHOST,
            gateway: Ipv4Addr::LOCALHOST,
            gateway_mac: [0; 6],
            nameservers: vec![],
            unix_time_ns: 1,
            entropy_hex: String::new(),
            expect_reseed: false,
            site: Live::default(),
        };
        [
            Call::Hello { version: 1 },
            Call::Status,
            Call::Quiesce,
            Call::Activate(Box::new(activation)),
            Call::Serve {
                cert_pem: String::new(),
                client_ca_pem: String::new(),
            },
            Call::Logs { max_bytes: 1 },
            Call::Notice {
                message: String::new(),
            },
            Call::Prepare(Box::default()),
        ]
    }

    #[test]
    fn each_call_is_admitted_in_the_phases_the_protocol_names_and_in_no_other() {
        // Rows: phases; columns: the calls above.
        let table = [
            [true, true, false, false, false, true, true, true],
            [true, true, true, true, false, true, true, false],
            [true, true, false, true, false, true, true, false],
            [true, true, false, false, true, true, true, false],
            [true, true, false, false, false, true, true, false],
        ];
        for (phase, row) in PHASES.into_iter().zip(table) {
            for (call, allowed) in calls().iter().zip(row) {
                let answer = admit(phase, call);
                assert_eq!(answer.is_ok(), allowed, "{phase:?} {call:?}");
                if let Err(fault) = answer {
                    assert_eq!(fault.code, FaultCode::WrongPhase);
                }
            }
        }
    }

    proptest! {
        /// However calls come and daemons become ready, the phase never goes back.
        #[test]
        fn only_forward(steps in prop::collection::vec(0usize..5, 0..20)) {
            let cell = PhaseCell::default();
            let mut rank = 0;
            for step in steps {
                let (before, next) = (cell.get(), PHASES[step]);
                let moved = cell.advance(next);
                prop_assert_eq!(cell.get(), if moved { next } else { before });
                let now = PHASES.iter().position(|&phase| phase == cell.get()).unwrap();
                prop_assert!(now > rank || (now == rank && !moved));
                rank = now;
            }
        }
    }
}
