//! What benchmarks measured: kept by name, printed as a table, written as JSON.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::TestServer;
use crate::process::{bounded, succeed};

/// Samples of one thing, in milliseconds.
#[derive(Debug, serde::Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The median that is asked for, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_ms: Option<f64>,
    /// In the order in which they were taken.
    pub samples_ms: Vec<f64>,
}

/// Figures in the order in which they first came.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a sample.
    pub fn add(&mut self, name: &str, sample: Duration) {
        let sample_ms = sample.as_secs_f64() * 1000.0;
        match self.0.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.samples_ms.push(sample_ms),
            None => self.0.push(Figure {
                name: name.to_owned(),
                asked_ms: None,
                samples_ms: vec![sample_ms],
            }),
        }
    }

    /// Says which median is asked for of a figure that is there.
    pub fn ask(&mut self, name: &str, median: Duration) {
        if let Some(figure) = self.0.iter_mut().find(|figure| figure.name == name) {
            figure.asked_ms = Some(median.as_secs_f64() * 1000.0);
        }
    }

    /// A table for people; a line for each figure.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<40} {:>4} {:>9} {:>9} {:>9} {:>9} {:>9}   (ms)\n",
            "step", "n", "median", "p95", "min", "max", "asked"
        );
        for figure in &self.0 {
            let mut values = figure.samples_ms.clone();
            values.sort_by(f64::total_cmp);
            let asked = figure.asked_ms.map(|ms| format!("{ms:.0}"));
            table.push_str(&format!(
                "{:<40} {:>4} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9}\n",
                figure.name,
                values.len(),
                quantile(&values, 0.5),
                quantile(&values, 0.95),
                values[0],
                values[values.len() - 1],
                asked.unwrap_or_default(),
            ));
        }
        table
    }

    /// Prints the table and the machine that the numbers are from, and writes all of them to `json`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn report(&self, machine: &str, json: &Path) {
        println!("\n{}\n{machine}", self.table());
        let document = serde_json::json!({ "machine": machine, "figures": self.0 });
        std::fs::write(json, format!("{document:#}\n")).expect("writing the numbers");
        println!("all numbers: {}", json.display());
    }
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

/// The machine that numbers are from, and how busy it is.
///
/// # Panics
/// When QEMU or `uname` cannot be run.
#[must_use]
pub fn describe(server: &TestServer) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = succeed(Command::new("uname").arg("-r"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let qemu = succeed(bounded(Duration::from_secs(10), "qemu-system-x86_64").arg("--version"));
    let qemu = qemu.lines().next().unwrap_or_default();
    let accelerator = if server.log().contains("accelerator: Kvm") {
        "kvm"
    } else {
        "tcg"
    };
    format!("{processors} x {model}, Linux {kernel}, {qemu}, {accelerator}, load {load}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let values = [1.0, 2.0, 3.0, 10.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 1.0), 10.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
    }

    #[test]
    fn samples_of_one_name_are_one_line() {
        let mut figures = Figures::default();
        for ms in [30, 10, 20] {
            figures.add("start", Duration::from_millis(ms));
        }
        figures.add("stop", Duration::from_millis(5));
        figures.ask("start", Duration::from_millis(60));
        let table = figures.table();
        let line: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["start", "3", "20.0", "29.0", "10.0", "30.0", "60"]);
        assert_eq!(table.lines().count(), 3);
    }
}
