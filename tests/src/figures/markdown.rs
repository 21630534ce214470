//! The figures in `docs/performance.md`: each part has a place there, between two comments, and only what a run
//! measured is written anew.

use super::{Part, Report, number};

/// A part has no place in the document.
#[derive(Debug, PartialEq, Eq)]
pub struct Absent(pub String);

/// The document with the parts of this report in it.
///
/// # Errors
/// When it has no place for one of them.
pub fn update(document: &str, report: &Report) -> Result<String, Absent> {
    let mut document = document.to_owned();
    for part in &report.parts {
        let [begin, end] =
            ["begin", "end"].map(|which| format!("<!-- bench {} {which} -->\n", part.name));
        let absent = || Absent(part.name.to_owned());
        let from = document.find(&begin).ok_or_else(absent)? + begin.len();
        let to = from + document[from..].find(&end).ok_or_else(absent)?;
        document.replace_range(from..to, &section(part, report));
    }
    Ok(document)
}

fn section(part: &Part, report: &Report) -> String {
    let host = &report.host;
    let mut text = format!(
        "{}\n\nTaken on {} on {} x {}, {:.0} GiB, Linux {}, QEMU {} ({}), libvirt {}; load {:.2} at its start.\n\n",
        part.about,
        report.taken_at.split('T').next().unwrap_or_default(),
        host.processors,
        host.processor,
        host.memory_mib as f64 / 1024.0,
        host.kernel,
        host.qemu,
        host.accelerator,
        host.libvirt,
        part.load,
    );
    if !part.figures.is_empty() {
        text.push_str("| | n | median | p95 | min – max | asked of the median |\n");
        text.push_str("|---|--:|--:|--:|--:|---|\n");
    }
    for figure in &part.figures {
        let summary = figure.summary();
        let unit = figure.unit.name();
        let asked = figure
            .goal
            .map(|goal| judged(&goal.words(), goal.is_reached(summary.median)));
        text.push_str(&format!(
            "| {} | {} | {} {unit} | {} {unit} | {} – {} {unit} | {} |\n",
            cell(&figure.name),
            summary.n,
            number(summary.median),
            number(summary.p95),
            number(summary.min),
            number(summary.max),
            asked.unwrap_or_default(),
        ));
    }
    if !part.values.is_empty() {
        text.push_str(if part.figures.is_empty() { "" } else { "\n" });
        text.push_str("| | | asked |\n|---|--:|---|\n");
    }
    for value in &part.values {
        let asked = value
            .goal
            .map(|goal| judged(&goal.words(), goal.is_reached(value.value)));
        text.push_str(&format!(
            "| {} | {} {} | {} |\n",
            cell(&value.name),
            number(value.value),
            value.unit.name(),
            asked.unwrap_or_default(),
        ));
    }
    for note in &part.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

fn judged(words: &str, is_reached: bool) -> String {
    if is_reached {
        return words.to_owned();
    }
    format!("{words}: **not reached**")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::PARTS;
    use crate::figures::tests::report;

    #[test]
    fn what_was_measured_is_written_anew_and_nothing_else() {
        let document = "# Title\n<!-- bench warm begin -->\nkept\n<!-- bench warm end -->\n\
                        <!-- bench cold begin -->\nstale\n<!-- bench cold end -->\nthe rest\n";
        let once = update(document, &report()).unwrap();
        assert!(once.starts_with("# Title\n<!-- bench warm begin -->\nkept\n"));
        assert!(once.ends_with("\n<!-- bench cold end -->\nthe rest\n"));
        assert!(!once.contains("stale"));
        assert!(once.contains("| a lease | 3 | 20 ms | 29 ms | 10 – 30 ms | ≤ 60 |"));
        assert!(once.contains("| lease to boot | 20 × | ≥ 30: **not reached** |"));
        assert_eq!(update(&once, &report()).unwrap(), once);
    }

    #[test]
    fn a_part_without_a_place_is_told() {
        let refused = update("# Title\n<!-- bench cold begin -->\n", &report());
        assert_eq!(refused, Err(Absent("cold".to_owned())));
    }

    #[test]
    fn the_document_has_a_place_for_every_part() {
        let document = include_str!("../../../docs/performance.md");
        for name in PARTS {
            for which in ["begin", "end"] {
                let mark = format!("<!-- bench {name} {which} -->\n");
                assert_eq!(document.matches(&mark).count(), 1, "{mark}");
            }
        }
    }
}
