//! A cold lease, in turns with the least that it could take (QEMU alone, from the same template) and with what it
//! takes without a template (the same image booted).

use std::time::{Duration, Instant};

use e2e::bare::{Bare, Recipe, Start};
use e2e::figures::{Goal, Part, Unit};
use e2e::machine::{self, ClientKey};
use e2e::process::Watched;
use e2e::setting::Setting;
use e2e::{Builder, TestServer};
use remote_docker_api::LeaseState;

use crate::Plan;
use crate::ends;

const WHOLE: &str = "POST to docker version";
const ANSWER: &str = "POST to the daemon's first answer";
const FLOOR: &str = "floor: QEMU alone, same template";
const DEVICES: &str = "of that, until QEMU has made its devices";
const HELD: &str = "QEMU alone, with an identity of its own, asked over TLS";
const HELD_ACTIVATED: &str = "of that, until it is a machine of its own";
const HELD_SERVING: &str = "of that, until it listens for its holder";
const BOOT: &str = "QEMU alone, same image booted";
const TRANSLATED: [&str; 4] = [
    "blocks translated: floor",
    "blocks translated: a machine of its own",
    "blocks translated: that listens for its holder",
    "blocks translated: that has answered over TLS",
];
/// Counts hardly differ from one run to the next.
const COUNTS: usize = 3;
const RELEASE: &str = "DELETE to machine gone";
const EXPIRY: &str = "expiry to machine gone";

pub(crate) fn measure(setting: &Setting, plan: &Plan) -> Part {
    let mut part = Part::begin(
        "cold",
        "A lease with no machine in stock, from the request to the first `docker version` over TLS, in turns with \
         another until the daemon has answered `GET /_ping` over TLS, and with the floor of that: QEMU started by hand \
         with the same template, until the guest's Docker daemon answers the same to its agent; no libvirt, no network, no \
         TLS. In turns with these, too: such a QEMU whose guest is made a machine of its own and asked over TLS, which is \
         the guest's share of a lease.",
    );
    let server = Builder::new(setting.clone()).start();
    let bare = Bare::new(recipe(&server), server.root().join("bare"));
    let apart = plan.leases.div_ceil(plan.boots);
    for number in 0..plan.leases {
        version(&server, &mut part);
        floor(&bare, &mut part);
        part.time(ANSWER, answer(&server));
        floor(&bare, &mut part);
        held(&bare, &mut part);
        if number % apart == 0 {
            part.time(BOOT, bare.run(Start::Boot).whole);
            part.time(EXPIRY, ends::expiry(&server));
        }
        eprintln!("lease {} of {}", number + 1, plan.leases);
    }
    part.ask(WHOLE, Goal::AtMost(1000.0));
    for name in [RELEASE, EXPIRY] {
        part.ask(name, Goal::AtMost(500.0));
    }
    part.ratio(
        "the daemon's first answer: so many times the floor",
        ANSWER,
        FLOOR,
        Some(Goal::AtMost(1.4)),
    );
    part.ratio(
        "docker version: so many times the floor",
        WHOLE,
        FLOOR,
        Some(Goal::AtMost(1.4)),
    );
    part.ratio(
        "the daemon's first answer: so many times the same without a server",
        ANSWER,
        HELD,
        None,
    );
    part.ratio(
        "faster than a boot, so many times",
        BOOT,
        WHOLE,
        Some(Goal::AtLeast(10.0)),
    );
    translated(&bare, &mut part);
    part.note(
        "`server: …` are the steps as the server tells them with the lease. The boot is without the server's share too, \
         so a lease that boots takes longer than it.",
    );
    part
}

fn floor(bare: &Bare, part: &mut Part) {
    let took = bare.run(Start::Clone);
    part.time(FLOOR, took.whole);
    part.time(DEVICES, took.listening);
}

/// What the guest has to do for a lease, without all that a server does.
fn held(bare: &Bare, part: &mut Part) {
    let took = bare.hold(false);
    part.time(HELD, took.whole);
    part.time(HELD_ACTIVATED, took.activated);
    part.time(HELD_SERVING, took.serving);
}

/// How many blocks of the guest's instructions QEMU has translated, by when: most of what the guest's share is made of.
fn translated(bare: &Bare, part: &mut Part) {
    for _ in 0..COUNTS {
        let Some(floor) = bare.run(Start::Clone).translated else {
            return;
        };
        let held = bare.hold(true).translated.expect("counts");
        let counts = [floor].into_iter().chain(held);
        for (name, count) in TRANSLATED.into_iter().zip(counts) {
            part.add(name, Unit::Count, count as f64);
        }
    }
}

/// What a clone of this server's template is run with. The lease that tells is not measured: the first one finds
/// nothing in memory.
fn recipe(server: &TestServer) -> Recipe {
    let machine = server.lease();
    let recipe = Recipe::of(ends::the_machine(server));
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
    recipe
}

/// A lease until its daemon has answered what the floor's is asked.
fn answer(server: &TestServer) -> Duration {
    let key = ClientKey::generate();
    let request = key.request();
    assert!(server.host().machines().is_empty(), "a machine is in stock");
    let asked = Instant::now();
    let lease = server.api().create(&request).expect("a lease");
    assert!(!lease.warm, "the lease was not cold");
    machine::ping(&lease, &key);
    let whole = asked.elapsed();
    let process = Watched::open(ends::the_machine(server));
    server.api().release(lease.id);
    process.wait_gone(ends::LIMIT);
    server.wait_state(lease.id, LeaseState::Ended);
    whole
}

fn version(server: &TestServer, part: &mut Part) {
    let key = ClientKey::generate();
    let request = key.request();
    assert!(server.host().machines().is_empty(), "a machine is in stock");

    let asked = Instant::now();
    let lease = server.api().create(&request).expect("a lease");
    let answered = asked.elapsed();
    assert!(!lease.warm, "the lease was not cold");
    let machine = server.hold(lease, &key);
    let written = asked.elapsed();
    machine.docker().ok(["version"]);
    let whole = asked.elapsed();

    part.time(WHOLE, whole);
    part.time("client: POST answered", answered);
    for timing in &machine.lease.timings {
        let took = Duration::from_millis(timing.duration_ms);
        part.time(&format!("server: {}", timing.step), took);
    }
    part.time("client: docker version", whole - written);
    let process = Watched::open(ends::the_machine(server));
    let begun = Instant::now();
    server.api().release(machine.id());
    process.wait_gone(ends::LIMIT);
    part.time(RELEASE, begun.elapsed());
    server.wait_state(machine.id(), LeaseState::Ended);
}
