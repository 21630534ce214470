//! All benchmarks: what a lease takes, against the least that it could take, measured in turns in one run. Prints
//! tables, writes all numbers as JSON and a page with plots, and, if told so, the tables of
//! `docs/performance.md`. `make bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people that fails by panicking"
)]

mod burst;
mod cli;
mod cold;
mod context;
mod density;
mod ends;
mod processes;
mod rate;
mod relay;
mod warm;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use e2e::figures::{Facts, PARTS, Part, Report, update};
use e2e::setting::Setting;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Measures what leases take on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of images
    #[arg(long)]
    images: PathBuf,
    /// The client as one static file, for what it costs a build machine
    #[arg(long)]
    cli: PathBuf,
    /// Folder of the other programs [default: that of this one]
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Where to write report.json and report.html
    #[arg(long)]
    out: PathBuf,
    /// A document to write the tables into
    #[arg(long)]
    update: Option<PathBuf>,
    /// These parts only
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    #[command(flatten)]
    plan: Plan,
}

/// How much of each is done.
#[derive(Debug, clap::Args)]
struct Plan {
    /// How many leases are measured, cold and warm
    #[arg(long, default_value_t = 30, value_parser = at_least_one)]
    leases: usize,
    /// How often the image is booted cold beside them, and a lease left to expire
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    boots: usize,
    /// How many leases live while the rate is measured, once for each number
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    live: Vec<u64>,
    /// How many leases are made and taken back at each of them
    #[arg(long, default_value_t = 5000)]
    rate_leases: u64,
    /// How many leases are asked for at once
    #[arg(long, default_value_t = 20, value_parser = at_least_one)]
    at_once: usize,
    /// How often that is done
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    /// How much goes through the relay each time, in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..))]
    relay_mib: u64,
    /// How often that is done
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    relay_rounds: usize,
    /// Size of a build's context, in MiB
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    context_mib: usize,
    /// How often it is sent each way (without TLS every other time)
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    context_rounds: usize,
    /// How many leases live at once and do nothing [default: 120, or as many as there is memory for]
    #[arg(long)]
    density: Option<usize>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one is needed to tell anything".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn main() -> ExitCode {
    let mut given = std::env::args_os().skip(1);
    if given.next().is_some_and(|first| first == relay::CHILD) {
        relay::be(given.next().expect("a namespace").into());
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .clone()
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let setting = Setting::new(bin, arguments.images.clone());
    let mut report = Report {
        taken_at: now(),
        host: Facts::look(),
        parts: Vec::new(),
    };
    println!("{}\n", report.host);
    let mut failed = Vec::new();
    for name in PARTS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("-- {name}");
        // One that fails has said why; the others tell something without it.
        match catch_unwind(AssertUnwindSafe(|| run(name, &arguments, &setting))) {
            Ok(part) => {
                println!("{}", part.text());
                report.parts.push(part);
                write(&report, &arguments.out);
            }
            Err(_) => failed.push(name),
        }
    }
    let out = arguments.out.display();
    println!("all numbers: {out}/report.json; plots: {out}/report.html");
    if let Some(document) = &arguments.update {
        let text = fs::read_to_string(document).expect("the document");
        match update(&text, &report) {
            Ok(text) => fs::write(document, text).expect("writing the document"),
            Err(absent) => panic!("{} has no place for {}", document.display(), absent.0),
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "error: these failed, and why stands above: {}",
        failed.join(", ")
    );
    ExitCode::FAILURE
}

fn run(name: &'static str, arguments: &Arguments, setting: &Setting) -> Part {
    let plan = &arguments.plan;
    match name {
        "cli" => cli::measure(&arguments.cli),
        "rate" => rate::measure(plan),
        "cold" => cold::measure(setting, plan),
        "warm" => warm::measure(setting, plan),
        "burst" => burst::measure(setting, plan),
        "relay" => relay::measure(plan),
        "context" => context::measure(setting, plan),
        "density" => density::measure(setting, plan),
        other => unreachable!("no part is called {other}"),
    }
}

fn write(report: &Report, out: &Path) {
    fs::create_dir_all(out).expect("the folder of the report");
    let json = format!("{:#}\n", report.json());
    fs::write(out.join("report.json"), json).expect("writing the numbers");
    fs::write(out.join("report.html"), report.page()).expect("writing the page");
}

#[expect(
    clippy::disallowed_methods,
    reason = "people want to know when numbers were taken"
)]
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.expect("zero is a number of nanoseconds");
    now.format(&Rfc3339).expect("a date of this millennium")
}
