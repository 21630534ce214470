//! A part as tables of plain text.

use super::{Part, Report, number};

impl Report {
    /// The machine, and every part.
    #[must_use]
    pub fn text(&self) -> String {
        let parts: String = self.parts.iter().map(Part::text).collect();
        format!("{}\n\n{parts}", self.host)
    }
}

impl Part {
    /// What people see on a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("== {}: {} (load {:.2})\n", self.name, self.about, self.load);
        if !self.figures.is_empty() {
            text.push_str(&format!(
                "{:<44} {:>9} {:>5} {:>9} {:>9} {:>9} {:>9}  {}\n",
                "", "", "n", "median", "p95", "min", "max", "asked of the median"
            ));
        }
        for figure in &self.figures {
            let summary = figure.summary();
            let [median, p95, min, max] =
                [summary.median, summary.p95, summary.min, summary.max].map(number);
            let asked = figure.goal.map_or_else(String::new, |goal| {
                judged(&goal.words(), goal.is_reached(summary.median))
            });
            text.push_str(&format!(
                "{:<44} {:>9} {:>5} {median:>9} {p95:>9} {min:>9} {max:>9}  {asked}\n",
                figure.name,
                figure.unit.name(),
                summary.n,
            ));
        }
        for value in &self.values {
            let asked = value.goal.map_or_else(String::new, |goal| {
                judged(&goal.words(), goal.is_reached(value.value))
            });
            let (name, unit) = (&value.name, value.unit.name());
            text.push_str(&format!(
                "{name:<44} {unit:>9} {:>15}  {asked}\n",
                number(value.value)
            ));
        }
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text.push('\n');
        text
    }
}

fn judged(words: &str, is_reached: bool) -> String {
    let outcome = if is_reached { "reached" } else { "MISSED" };
    format!("{words} {outcome}")
}

#[cfg(test)]
mod tests {
    use crate::figures::tests::report;

    #[test]
    fn each_figure_and_each_value_is_a_line_with_its_judgement() {
        let text = report().text();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap().split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(
            line("a lease"),
            [
                "a", "lease", "ms", "3", "20", "29", "10", "30", "≤", "60", "reached"
            ]
        );
        assert_eq!(
            line("lease to boot"),
            ["lease", "to", "boot", "×", "20", "≥", "30", "MISSED"]
        );
        assert!(text.contains("- Nothing else ran."));
    }
}
