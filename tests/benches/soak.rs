//! Leases made and given back two hundred times on real machines: nothing of it may stay, and the server
//! may not grow. `make soak` runs it; the tests run a shorter one.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people that fails by panicking"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use e2e::Builder;
use e2e::figures::Facts;
use e2e::setting::Setting;
use e2e::soak::{Plan, run};

/// Makes leases and gives them back, and looks at what stays.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of images
    #[arg(long)]
    images: PathBuf,
    /// Folder of the programs [default: that of this one]
    #[arg(long)]
    bin: Option<PathBuf>,
    /// How many leases, one after the other
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(3..))]
    cycles: u32,
    /// How many before them, after which everything is compared with what there is then
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    warm_up: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let server = Builder::new(Setting::new(bin, arguments.images)).start();
    println!("{} at the start", Facts::look());
    let plan = Plan {
        warm_up: arguments.warm_up as usize,
        cycles: arguments.cycles as usize,
        memory_percent: 5,
    };
    let all = plan.warm_up + plan.cycles;
    let outcome = run(&server, plan, |number| {
        if number.is_multiple_of(10) || number == all {
            eprintln!("lease {number} of {all}");
        }
    });
    let (first, last) = outcome.memory_medians_kib();
    println!("before: {:?}\nafter:  {:?}", outcome.before, outcome.after);
    println!("memory of its own, medians of the first and the last third: {first} and {last} KiB");
    println!("in KiB, in order: {:?}", outcome.memory_kib);
    println!("database: {} bytes more", outcome.database_bytes);
    println!("audit log: {} bytes more", outcome.audit_bytes);
    let each = outcome.took / arguments.cycles;
    println!("{} cycles, {} ms each", arguments.cycles, each.as_millis());
    let faults = outcome.faults();
    for fault in &faults {
        println!("GREW: {fault}");
    }
    if faults.is_empty() {
        println!("nothing grew");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
