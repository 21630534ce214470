//! Many cold leases asked for at the same moment.

use std::time::{Duration, Instant};

use e2e::Builder;
use e2e::figures::{Goal, Part};
use e2e::machine::ClientKey;
use e2e::server::RELAY_PORT;
use e2e::setting::Setting;

use crate::Plan;

pub(crate) fn measure(setting: &Setting, plan: &Plan) -> Part {
    let count = plan.at_once;
    let mut part = Part::begin(
        "burst",
        &format!(
            "{count} cold leases asked for at once: until the first and the last of them are ready."
        ),
    );
    let last_port = usize::from(RELAY_PORT) + count;
    let server = Builder::new(setting.clone())
        .set("relay.ports", format!("{RELAY_PORT}-{last_port}"))
        .set("limits.memory_budget_mib", count as u64 * 1024)
        .set("limits.max_vms", count.max(100))
        .start();
    let [first, last] = ["first", "last"].map(|which| format!("the {which} is ready"));
    for round in 1..=plan.rounds {
        let begun = Instant::now();
        let requests = (0..count).map(|_| ClientKey::generate().request());
        let leases = server.at_once(requests.collect());
        let took = leases.into_iter().map(|lease| lease.expect("a lease").0);
        let mut took: Vec<Duration> = took.collect();
        took.sort();
        part.time(&first, took[0]);
        part.time(&last, took[count - 1]);
        for lease in server.api().list() {
            server.api().release(lease.id);
        }
        server.wait_clean();
        let took = begun.elapsed().as_millis();
        eprintln!("round {round} of {}: {took} ms in all", plan.rounds);
    }
    part.ask(&last, Goal::AtMost(15_000.0));
    part
}
