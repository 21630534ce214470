//! The loop: choose, change, run, look.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::coverage::Seen;
use crate::{Random, Target, memory, mutate};

/// How many inputs are kept at a time; others make room.
const MOST_KEPT: usize = 4096;

/// How long one input may take. Ordinary ones take microseconds; a test machine may be busy.
const LONGEST: Duration = Duration::from_secs(10);

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// How many inputs were run, those of the corpus included.
    pub inputs: u64,
    /// How long that took.
    pub duration: Duration,
    /// How many different things came of them, as the target tells them apart.
    pub outcomes: usize,
    /// How many branches they took; 0 when that is not counted.
    pub branches: usize,
    /// The most memory that one of them took, in bytes.
    pub peak_bytes: usize,
    /// Inputs that did something new, beside those of the corpus.
    pub found: Vec<Vec<u8>>,
}

/// An input after which something did not hold that must.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What was wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} with the input\n{}",
            self.what,
            self.input.escape_ascii()
        )
    }
}

impl std::error::Error for Finding {}

/// Runs the corpus and then `inputs` that are made of it. The same seed gives the same run, unless branches
/// are counted.
///
/// # Errors
/// With the first input after which something did not hold.
pub fn run(
    target: &Target,
    corpus: Vec<Vec<u8>>,
    inputs: u64,
    seed: u64,
) -> Result<Report, Box<Finding>> {
    let begun = Instant::now();
    let mut state = State {
        target,
        seen: Seen::new(),
        outcomes: HashSet::new(),
        peak_bytes: 0,
    };
    let mut kept = corpus;
    if kept.is_empty() {
        kept.push(Vec::new());
    }
    for input in &kept {
        state.try_one(input)?;
    }
    let begin = kept.len();
    let mut random = Random::new(seed);
    let mut found = Vec::new();
    for _ in 0..inputs {
        // Half of the time one of those that were found last.
        let from = match random.below(2) {
            0 => kept.len().saturating_sub(64),
            _ => 0,
        };
        let chosen = from + random.below(kept.len() - from);
        let other = random.below(kept.len());
        let input = mutate::mutate(
            &mut random,
            &kept[chosen],
            &kept[other],
            target.words,
            target.most_bytes,
        );
        if state.try_one(&input)? {
            found.push(input.clone());
            if kept.len() < MOST_KEPT {
                kept.push(input);
            } else {
                // Those of the corpus stay.
                let place = begin.min(MOST_KEPT - 1);
                let place = place + random.below(MOST_KEPT - place);
                kept[place] = input;
            }
        }
    }
    Ok(Report {
        inputs: inputs + u64::try_from(begin).unwrap_or(0),
        duration: begun.elapsed(),
        outcomes: state.outcomes.len(),
        branches: state.seen.taken(),
        peak_bytes: state.peak_bytes,
        found,
    })
}

struct State<'a> {
    target: &'a Target,
    seen: Seen,
    outcomes: HashSet<u64>,
    peak_bytes: usize,
}

impl State<'_> {
    /// Whether it did something new.
    fn try_one(&mut self, input: &[u8]) -> Result<bool, Box<Finding>> {
        let finding = |what: String| {
            Box::new(Finding {
                input: input.to_vec(),
                what,
            })
        };
        let begun = Instant::now();
        let (done, peak) =
            memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))));
        let outcome = done.map_err(|panic| finding(format!("panic: {}", words_of(&*panic))))?;
        let took = begun.elapsed();
        if took > LONGEST {
            return Err(finding(format!("it took {took:?}")));
        }
        if peak > self.target.most_memory {
            let most = self.target.most_memory;
            return Err(finding(format!(
                "it took {peak} bytes of memory, {most} is the most"
            )));
        }
        self.peak_bytes = self.peak_bytes.max(peak);
        let new_outcome = self.outcomes.insert(outcome);
        Ok(self.seen.take() || new_outcome)
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(run: fn(&[u8]) -> u64) -> Target {
        Target {
            name: "test",
            what: "for tests",
            words: &[b"bug"],
            most_bytes: 64,
            most_memory: 1 << 20,
            seeds: || vec![b"seed".to_vec()],
            run,
        }
    }

    #[test]
    fn what_goes_wrong_is_found_with_its_input() {
        let panics = target(|input| {
            assert!(!input.windows(3).any(|part| part == b"bug"), "a bug");
            0
        });
        let finding = run(&panics, vec![b"seed".to_vec()], 10_000, 1).unwrap_err();
        assert!(finding.what.contains("a bug"), "{finding}");
        assert!(finding.input.windows(3).any(|part| part == b"bug"));
        let hoards = target(|input| {
            let hoard = vec![1_u8; input.len() << 18];
            u64::from(hoard.is_empty())
        });
        let finding = run(&hoards, vec![b"seed".to_vec()], 100, 1).unwrap_err();
        assert!(finding.what.contains("bytes of memory"), "{finding}");
    }

    #[test]
    fn a_run_can_be_repeated() {
        let target = target(|input| input.iter().map(|byte| u64::from(*byte)).sum());
        let once = |seed| run(&target, vec![b"seed".to_vec()], 2000, seed).unwrap();
        assert_eq!(once(1).found, once(1).found);
        assert_ne!(once(1).found, once(2).found);
        assert!(once(1).found.iter().all(|input| input.len() <= 64));
    }
}
