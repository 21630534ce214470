//! A short run of every target, the same each time. `make fuzz` is the long one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use fuzz::{Target, all, run};

/// Some seconds for all targets together, in a build that is not optimised.
const INPUTS: u64 = 10_000;

fn target(name: &str) -> Target {
    let found = all().into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target {name}"))
}

fn short(name: &str, least_outcomes: usize) {
    let target = target(name);
    let corpus = target.corpus().unwrap();
    assert!(!corpus.is_empty(), "no corpus for {name}");
    let report = run(&target, corpus, INPUTS, 1).unwrap_or_else(|finding| panic!("{finding}"));
    // Inputs that all come to the same would show nothing.
    assert!(report.outcomes >= least_outcomes, "{report:?}");
}

#[test]
fn frames_from_guests() {
    short("frames-from-guest", 20);
}

#[test]
fn frames_to_guests() {
    short("frames-to-guest", 8);
}

#[test]
fn the_servers_end_of_the_channel() {
    short("channel", 20);
}

#[test]
fn the_configuration() {
    short("config", 20);
}

#[test]
fn certificate_requests() {
    short("csr", 8);
}

#[test]
fn tokens_of_jobs() {
    short("jwt", 8);
}

/// It is run by every test run and stays in the repository for ever.
#[test]
fn the_kept_inputs_are_few_and_small() {
    for target in all() {
        let seeds = (target.seeds)().len();
        let corpus = target.corpus().unwrap();
        let kept = &corpus[seeds..];
        let bytes: usize = kept.iter().map(Vec::len).sum();
        let name = target.name;
        assert!(
            kept.len() <= 400 && bytes <= 400_000,
            "{name}: {} inputs, {bytes} bytes",
            kept.len()
        );
        assert!(kept.iter().all(|input| input.len() <= target.most_bytes));
    }
}
