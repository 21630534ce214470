//! What benchmarks measured: kept by name, compared with what is asked, and shown in four ways: a table for the
//! terminal, JSON for programs, a page with plots, and a section of `docs/performance.md`.

pub mod host;
mod json;
mod markdown;
mod page;
mod plot;
mod table;

use std::time::Duration;

pub use host::Facts;
pub use json::SCHEMA;
pub use markdown::{Absent, update};

/// The parts that `make bench` has, in the order in which it runs them.
pub const PARTS: [&str; 8] = [
    "cli", "rate", "cold", "warm", "burst", "relay", "context", "density",
];

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Ms,
    /// 2^20 bytes.
    MiB,
    /// 2^20 bytes a second.
    MiBPerS,
    /// So many a second.
    PerS,
    /// So many times something else.
    Times,
    /// Processors that are kept busy.
    Cores,
    /// Seconds of a processor for 2^30 bytes.
    CpuSPerGiB,
    /// Things.
    Count,
}

impl Unit {
    /// As people and programs read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::MiB => "MiB",
            Self::MiBPerS => "MiB/s",
            Self::PerS => "1/s",
            Self::Times => "×",
            Self::Cores => "cores",
            Self::CpuSPerGiB => "CPU-s/GiB",
            Self::Count => "",
        }
    }
}

/// What is asked of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Goal {
    /// Whether `value` reaches it.
    #[must_use]
    pub fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    /// The number that is asked for.
    #[must_use]
    pub fn value(self) -> f64 {
        let (Self::AtMost(value) | Self::AtLeast(value)) = self;
        value
    }

    /// As in `≤ 50`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::AtMost(value) => format!("≤ {}", number(value)),
            Self::AtLeast(value) => format!("≥ {}", number(value)),
        }
    }
}

/// Samples of one thing.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: Unit,
    /// What is asked of the median.
    pub goal: Option<Goal>,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

/// What is left of samples in a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// Half of them are no more than this.
    pub median: f64,
    /// 95 in a hundred are no more than this.
    pub p95: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Figure {
    /// What the samples come to.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        Summary {
            n: sorted.len(),
            median: quantile(&sorted, 0.5),
            p95: quantile(&sorted, 0.95),
            min: quantile(&sorted, 0.0),
            max: quantile(&sorted, 1.0),
        }
    }
}

/// One number that was counted once or follows from others.
#[derive(Debug, Clone)]
pub struct Value {
    /// What it is.
    pub name: String,
    /// In what.
    pub unit: Unit,
    /// What is asked of it.
    pub goal: Option<Goal>,
    /// The number.
    pub value: f64,
}

/// What one part of the benchmarks found.
#[derive(Debug, Clone)]
pub struct Part {
    /// One of [`PARTS`].
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub about: String,
    /// The load of the machine when it began.
    pub load: f64,
    /// What was measured several times, in the order in which it first came.
    pub figures: Vec<Figure>,
    /// What was counted once or follows from others.
    pub values: Vec<Value>,
    /// What a reader has to know to understand them.
    pub notes: Vec<String>,
}

impl Part {
    /// One that begins now.
    #[must_use]
    pub fn begin(name: &'static str, about: &str) -> Self {
        Self {
            name,
            about: about.to_owned(),
            load: host::load(),
            figures: Vec::new(),
            values: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a sample in milliseconds.
    pub fn time(&mut self, name: &str, sample: Duration) {
        self.add(name, Unit::Ms, sample.as_secs_f64() * 1000.0);
    }

    /// Adds a sample.
    pub fn add(&mut self, name: &str, unit: Unit, sample: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.samples.push(sample),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                goal: None,
                samples: vec![sample],
            }),
        }
    }

    /// Says what is asked of the median of a figure that is there.
    pub fn ask(&mut self, name: &str, goal: Goal) {
        if let Some(figure) = self.figures.iter_mut().find(|figure| figure.name == name) {
            figure.goal = Some(goal);
        }
    }

    /// Adds a number that there is once.
    pub fn value(&mut self, name: &str, unit: Unit, value: f64, goal: Option<Goal>) {
        let name = name.to_owned();
        self.values.push(Value {
            name,
            unit,
            goal,
            value,
        });
    }

    /// Adds how many times the median of `of` the median of `figure` is.
    ///
    /// # Panics
    /// When one of them was not measured.
    pub fn ratio(&mut self, name: &str, figure: &str, of: &str, goal: Option<Goal>) {
        let ratio = self.median(figure) / self.median(of);
        self.value(name, Unit::Times, ratio, goal);
    }

    /// The median of a figure.
    ///
    /// # Panics
    /// When it was not measured.
    #[must_use]
    pub fn median(&self, name: &str) -> f64 {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        let figure = figure.unwrap_or_else(|| panic!("{name} was not measured"));
        figure.summary().median
    }

    /// Adds something that a reader has to know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// All that one run found.
#[derive(Debug, Clone)]
pub struct Report {
    /// When it began (UTC, RFC 3339).
    pub taken_at: String,
    /// Where.
    pub host: Facts,
    /// What was run, in order.
    pub parts: Vec<Part>,
}

/// Of sorted values, between the two that are nearest to it.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    below + (above - below) * place.fract()
}

/// With as many digits as tell something.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests;
