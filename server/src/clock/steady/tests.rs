use std::sync::Arc;

use time::macros::datetime;

use super::*;
use crate::clock::hands::Hands;
use crate::config::{LogConfig, LogFormat};
use crate::telemetry;

const START: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

/// A host, and the server time of a server on it.
fn opened(folder: &tempfile::TempDir) -> (Hands, SteadyClock<Hands>) {
    let hands = Hands::new(START);
    let clock = SteadyClock::open(&folder.path().join("clock"), hands.clone());
    (hands, clock)
}

fn seconds(from: OffsetDateTime, to: OffsetDateTime) -> i64 {
    (to - from).whole_seconds()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged while `act` runs.
fn logged(act: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let config = LogConfig {
        filter: "warn".to_owned(),
        format: LogFormat::Text,
    };
    let subscriber = telemetry::subscriber(&config, move || writer.clone(), false).unwrap();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = lines.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn server_time_goes_on_however_the_hosts_clock_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let (hands, clock) = opened(&folder);
    assert_eq!((clock.now(), clock.ahead()), (START, Duration::ZERO));
    let mut ahead = 0;
    for by in [3600, -7200, 30 * 86_400, -1, 5] {
        hands.pass(10);
        hands.set(by);
        ahead += by;
        let before = clock.now();
        hands.pass(10);
        assert_eq!(seconds(before, clock.now()), 10, "{by}");
        assert_eq!(clock.ahead(), Duration::seconds(ahead), "{by}");
        assert_eq!(clock.wall(), hands.wall(), "{by}");
    }
}

#[test]
fn each_setting_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let (hands, clock) = opened(&folder);
    let told = logged(|| {
        for by in [0, 3600, 0, 0, -3600, 0] {
            hands.set(by);
            hands.pass(1);
            clock.now();
        }
    });
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("WARN") && told[0].contains("set ahead by 3600 s"));
    assert!(told[1].contains("set back by 3600 s"), "{told:?}");
}

#[test]
fn a_process_that_stood_still_has_not_seen_a_clock_being_set() {
    let folder = tempfile::tempdir().unwrap();
    let (hands, clock) = opened(&folder);
    hands.pause_between_readings(60);
    let told = logged(|| {
        assert_eq!(seconds(START, clock.now()), 60);
        assert_eq!(clock.ahead(), Duration::ZERO);
    });
    assert_eq!(told, Vec::<String>::new());
}

#[test]
fn the_next_server_goes_on_with_the_time_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clock");
    let (hands, _) = opened(&folder);
    for (by, passed) in [(3600, 100), (-7200, 200)] {
        hands.pass(100);
        // While no server runs.
        hands.set(by);
        let clock = SteadyClock::open(&file, hands.clone());
        assert_eq!(seconds(START, clock.now()), passed);
        assert_eq!(clock.wall(), hands.wall());
    }
    // After a reboot it begins anew.
    hands.reboot();
    let clock = SteadyClock::open(&file, hands.clone());
    assert_eq!((clock.now(), clock.ahead()), (hands.wall(), Duration::ZERO));
}

#[test]
fn a_file_that_cannot_be_used_is_told_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clock");
    for damage in ["", "{}", "\0", r#"{"boot_id":"0","booted_at":"yesterday"}"#] {
        std::fs::write(&file, damage).unwrap();
        let hands = Hands::new(START);
        let told = logged(|| {
            let clock = SteadyClock::open(&file, hands.clone());
            assert_eq!(clock.now(), START);
        });
        assert!(told[0].contains("cannot be read"), "{told:?}");
        hands.set(3600);
        let clock = SteadyClock::open(&file, hands);
        assert_eq!(clock.now(), START, "{damage}");
    }
    let nowhere = folder.path().join("missing/clock");
    let told = logged(|| {
        let clock = SteadyClock::open(&nowhere, Hands::new(START));
        assert_eq!(clock.now(), START);
    });
    assert!(told[0].contains("cannot be written"), "{told:?}");
}

#[test]
fn the_systems_clocks_agree_and_the_host_has_a_name_for_its_boot() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteadyClock::open(&folder.path().join("clock"), SystemClock);
    let apart = (clock.now() - HostClocks::wall(&SystemClock)).abs();
    assert!(apart < Duration::seconds(60), "{apart}");
    assert!(SystemClock.boot_id().is_some());
}
