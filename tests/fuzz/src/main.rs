//! Throws many inputs at one target or all.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use fuzz::Target;

/// Throws inputs at what reads what others write.
#[derive(Debug, Parser)]
struct Arguments {
    /// Names of targets; all when there is none
    targets: Vec<String>,
    /// How many inputs for each
    #[arg(long, default_value_t = 1_000_000)]
    inputs: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A folder for inputs that did something new, in a folder for each target
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Put the fewest inputs that take all branches seen into the corpus, in the place of those there
    #[arg(long)]
    distil: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // What a panic says is told with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let all = fuzz::all();
    for name in &arguments.targets {
        anyhow::ensure!(
            all.iter().any(|target| target.name == name),
            "there is no target {name}; there are: {}",
            all.each_ref().map(|target| target.name).join(", ")
        );
    }
    let chosen = all.iter().filter(|target| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|name| name == target.name)
    });
    for target in chosen {
        run(target, &arguments)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn run(target: &Target, arguments: &Arguments) -> anyhow::Result<()> {
    let corpus = target.corpus().context("the corpus cannot be read")?;
    let kept = corpus.len();
    let before = corpus.clone();
    let report = match fuzz::run(target, corpus, arguments.inputs, arguments.seed) {
        Ok(report) => report,
        Err(finding) => {
            let path = format!("finding-{}", target.name);
            std::fs::write(&path, &finding.input).context("the finding cannot be written")?;
            anyhow::bail!("{}: {finding}\nthe input is in {path}", target.name);
        }
    };
    let seconds = report.duration.as_secs_f64();
    println!(
        "{}: {} inputs in {seconds:.1} s ({kept} kept before, {} new), {} outcomes, {} of {} branches, \
         {} KiB of memory at most",
        target.name,
        report.inputs,
        report.found.len(),
        report.outcomes,
        report.branches,
        fuzz::coverage::Seen::counters(),
        report.peak_bytes / 1024
    );
    if arguments.distil {
        let inputs = before.into_iter().chain(report.found.iter().cloned());
        let chosen = fuzz::distil(target, inputs.collect());
        let count = chosen.len();
        target
            .replace_corpus(&chosen)
            .context("the corpus cannot be written")?;
        println!("{}: {count} inputs in the corpus", target.name);
    }
    if let Some(folder) = &arguments.keep {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, input) in report.found.iter().enumerate() {
            std::fs::write(folder.join(format!("{number:04}")), input)?;
        }
    }
    Ok(())
}
