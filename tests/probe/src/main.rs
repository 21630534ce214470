//! `attack-probe PLAN`: the plan is a list of attempts in JSON. One line for each, as it ends.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that talks to whoever runs it"
)]

mod deeds;
mod tls;

use std::process::ExitCode;

use attack_probe::{Attempt, Heard, Outcome};

fn main() -> ExitCode {
    let Some(plan) = std::env::args().nth(1) else {
        eprintln!("usage: attack-probe PLAN");
        return ExitCode::from(2);
    };
    let plan: Vec<Attempt> = match serde_json::from_str(&plan) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("attack-probe: the plan: {error}");
            return ExitCode::from(2);
        }
    };
    std::thread::scope(|scope| {
        for attempt in plan {
            scope.spawn(move || tell(&attempt.name, deeds::carry_out(&attempt)));
        }
    });
    ExitCode::SUCCESS
}

fn tell(name: &str, heard: Heard) {
    let outcome = Outcome {
        name: name.to_owned(),
        heard,
    };
    match serde_json::to_string(&outcome) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("attack-probe: {name}: {error}"),
    }
}
