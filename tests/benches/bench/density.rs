//! Many leases that live and do nothing: how many fit, what each takes, and what the server takes for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::figures::{Goal, Part, Unit, host};
use e2e::machine::{ClientKey, Machine};
use e2e::private_memory::PrivateMemory;
use e2e::process::{Sleeps, run};
use e2e::server::RELAY_PORT;
use e2e::setting::Setting;
use e2e::{Builder, TestServer};
use nix::unistd::Pid;

use crate::Plan;
use crate::processes::{mib, private_mib, processor_s};

/// As many as are asked for of 24 GiB.
const MOST: usize = 120;
/// Fewer tell nothing about density.
const LEAST: usize = 4;
/// What one machine takes of its own, a margin included, in MiB.
const EACH_MIB: u64 = 110;
/// What is left to everybody else, the template among them, in MiB.
const SPARE_MIB: u64 = 3072;

/// How many are asked for at a time.
const TOGETHER: usize = 4;
/// No more are made after this.
const MAKE_LIMIT: Duration = Duration::from_secs(600);
/// What follows from a lease's beginning is over after it.
const REST: Duration = Duration::from_secs(10);
/// How long they are watched.
const WATCH: Duration = Duration::from_secs(30);
/// With so many leases the server's memory is looked at.
const LEASES: usize = 100;

const UNUSED: &str = "private memory of a machine, not used yet";
const PRIVATE: &str = "private memory of a machine that has answered";
const GUEST: &str = "of that, pages of the guest that it has written to";
const TRANSLATED: &str = "of that, instructions translated by QEMU";
const QEMU: &str = "of that, the rest: QEMU's own";
const SHARE: &str = "private memory and its share of what is shared";

pub(crate) fn measure(setting: &Setting, plan: &Plan) -> Part {
    let mut part = Part::begin(
        "density",
        "Leases of 1 GiB that live at once and do nothing, asked for four at a time.",
    );
    let count = match how_many(plan.density, host::memory_mib("MemAvailable:")) {
        Ok(count) => count,
        Err(why) => {
            part.note(why);
            return part;
        }
    };
    let last_port = usize::from(RELAY_PORT) + count;
    let server = Builder::new(setting.clone())
        .set("relay.ports", format!("{RELAY_PORT}-{last_port}"))
        .set("limits.memory_budget_mib", count as u64 * 1024)
        .set("limits.max_vms", count)
        .start();
    let (machines, refused) = make(&server, count, &mut part);
    // Who refused one may be making others, or a template: what runs is not what was asked for.
    if refused.is_none() {
        for process in server.host().machines() {
            part.add(UNUSED, Unit::MiB, private_mib(process));
        }
    }
    let answering = answering(&machines);
    let asked = Some(Goal::AtLeast(MOST as f64)).filter(|_| count >= MOST);
    part.value(
        "leases at once that answer",
        Unit::Count,
        answering as f64,
        asked,
    );
    if answering < machines.len() {
        part.note(format!("{} did not answer.", machines.len() - answering));
    }
    match refused {
        None => {
            thread::sleep(REST);
            watch(&server, &mut part);
        }
        Some(why) => part.note(format!(
            "After {} no more could be made, of {count} that were to be, and nothing else was measured: {why}",
            machines.len()
        )),
    }
    part
}

/// How many are made on a machine with so much memory available.
fn how_many(wanted: Option<usize>, available_mib: u64) -> Result<usize, String> {
    let fit = available_mib.saturating_sub(SPARE_MIB) / EACH_MIB;
    let fit = usize::try_from(fit).unwrap_or(usize::MAX);
    let count = wanted.unwrap_or(MOST.min(fit));
    if count > fit || count < LEAST {
        return Err(format!(
            "Not measured: {available_mib} MiB of memory are available, in which {fit} machines fit beside what else \
             there is, and {} were to be made; give more memory, or another number with `--density`.",
            wanted.unwrap_or(LEAST)
        ));
    }
    Ok(count)
}

/// Makes so many, or as many as there can be; then also why there are no more.
fn make(server: &TestServer, count: usize, part: &mut Part) -> (Vec<Machine>, Option<String>) {
    let begun = Instant::now();
    let mut machines = Vec::new();
    let mut memory = None;
    let mut refused = None;
    while machines.len() < count && begun.elapsed() < MAKE_LIMIT && refused.is_none() {
        let keys = (machines.len()..count)
            .take(TOGETHER)
            .map(|_| ClientKey::generate());
        let keys: Vec<_> = keys.collect();
        let requests = keys.iter().map(|key| {
            let mut request = key.request();
            request.ttl_s = Some(3600);
            request
        });
        for (answer, key) in server.at_once(requests.collect()).into_iter().zip(&keys) {
            match answer {
                Ok((_, lease)) => machines.push(server.hold(lease, key)),
                Err(problem) => refused = Some(problem.detail),
            }
        }
        let is_last = machines.len() == count || refused.is_some();
        if memory.is_none() && (is_last || machines.len() >= LEASES) {
            memory = Some((machines.len(), mib(server.pid(), "status", "VmRSS:")));
        }
        if machines.len().is_multiple_of(20) {
            eprintln!("{} of {count} leases", machines.len());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    part.value(
        "made, in a second",
        Unit::PerS,
        machines.len() as f64 / took,
        None,
    );
    if let Some((leases, memory)) = memory {
        let asked = (leases >= LEASES).then_some(Goal::AtMost(64.0));
        let name = format!("memory of the server with {leases} leases");
        part.value(&name, Unit::MiB, memory, asked);
    }
    if refused.is_none() && machines.len() < count {
        let limit = MAKE_LIMIT.as_secs();
        part.note(format!(
            "After {limit} s no more were made; {count} were to be."
        ));
    }
    (machines, refused)
}

/// How many of them answer `docker version`.
fn answering(machines: &[Machine]) -> usize {
    let (next, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(machine) = machines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = run(&mut machine.docker().command(["version"]));
                    good.fetch_add(usize::from(answer.status.success()), Ordering::Relaxed);
                }
            });
        }
    });
    good.into_inner()
}

fn watch(server: &TestServer, part: &mut Part) {
    let processes = server.host().machines();
    for process in &processes {
        part.add(PRIVATE, Unit::MiB, private_mib(*process));
        let uses = PrivateMemory::of(*process);
        for (name, kib) in [
            (GUEST, uses.guest_kib),
            (TRANSLATED, uses.translated_kib),
            (QEMU, uses.qemu_kib),
        ] {
            part.add(name, Unit::MiB, kib as f64 / 1024.0);
        }
        let shared = mib(*process, "smaps_rollup", "Pss:");
        part.add(SHARE, Unit::MiB, shared);
    }
    part.ask(PRIVATE, Goal::AtMost(80.0));
    let all = |of: fn(Pid) -> f64| processes.iter().map(|process| of(*process)).sum::<f64>();
    let sleeps = || -> Vec<_> { processes.iter().map(|pid| Sleeps::of(*pid)).collect() };
    let begun = Instant::now();
    let slept = sleeps();
    let before = (all(processor_s), processor_s(server.pid()));
    thread::sleep(WATCH);
    let after = (all(processor_s), processor_s(server.pid()));
    let woken = sleeps().into_iter().zip(&slept);
    let woken: u64 = woken.map(|(now, before)| now.since(before)).sum();
    let seconds = begun.elapsed().as_secs_f64();
    let busy = (after.0 - before.0) / seconds;
    part.value(
        "processors that all machines keep busy",
        Unit::Cores,
        busy,
        Some(Goal::AtMost(1.0)),
    );
    let woken = woken as f64 / seconds / processes.len() as f64;
    part.value("wake-ups of a machine's threads", Unit::PerS, woken, None);
    part.value(
        "processors that the server keeps busy",
        Unit::Cores,
        (after.1 - before.1) / seconds,
        None,
    );
    part.note(format!(
        "Memory was looked at {} s after the last had answered; processors were watched for {} s from then on.",
        REST.as_secs(),
        WATCH.as_secs()
    ));
}
