//! The report as one page that needs no other file.

use super::{Part, Report, number, plot};

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}.missed{color:#b00020;font-weight:bold}.reached{color:#2e7d32}\
    svg{max-width:100%;height:auto}";

impl Report {
    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let parts: String = self.parts.iter().map(section).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Benchmarks</title>\
             <style>{STYLE}</style></head>\n<body><h1>Benchmarks</h1>\n<p>{}; {}</p>\n{parts}</body></html>\n",
            escaped(&self.taken_at),
            escaped(&self.host.to_string()),
        )
    }
}

fn section(part: &Part) -> String {
    let mut text = format!(
        "<h2>{}</h2>\n<p>{} Load at its start: {:.2}.</p>\n",
        escaped(part.name),
        escaped(&part.about),
        part.load
    );
    text.push_str(&plot::plots(part));
    text.push_str(
        "<table><tr><th></th><th>n</th><th>median</th><th>p95</th><th>min – max</th><th>unit</th><th>asked</th></tr>\n",
    );
    for figure in &part.figures {
        let summary = figure.summary();
        text.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{} – {}</td><td>{}</td>{}</tr>\n",
            escaped(&figure.name),
            summary.n,
            number(summary.median),
            number(summary.p95),
            number(summary.min),
            number(summary.max),
            figure.unit.name(),
            asked(
                figure
                    .goal
                    .map(|goal| (goal.words(), goal.is_reached(summary.median)))
            ),
        ));
    }
    for value in &part.values {
        text.push_str(&format!(
            "<tr><td>{}</td><td></td><td>{}</td><td></td><td></td><td>{}</td>{}</tr>\n",
            escaped(&value.name),
            number(value.value),
            value.unit.name(),
            asked(
                value
                    .goal
                    .map(|goal| (goal.words(), goal.is_reached(value.value)))
            ),
        ));
    }
    text.push_str("</table>\n");
    for note in &part.notes {
        text.push_str(&format!("<p>{}</p>\n", escaped(note)));
    }
    text
}

fn asked(goal: Option<(String, bool)>) -> String {
    let Some((words, is_reached)) = goal else {
        return "<td></td>".to_owned();
    };
    let class = if is_reached { "reached" } else { "missed" };
    format!("<td class=\"{class}\">{} {class}</td>", escaped(&words))
}

/// Text that is safe in an element and in quotes.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::figures::tests::report;

    #[test]
    fn the_page_stands_alone_and_nothing_in_it_is_taken_for_markup() {
        let page = report().page();
        assert!(page.contains("A &lt;cold&gt; lease."));
        assert!(page.contains("Some &amp; Co"));
        assert!(page.contains("<svg"));
        assert!(page.contains("class=\"missed\">≥ 30 missed"));
        for outside in ["http:", "src=", "<link", "<script"] {
            assert!(
                !page
                    .replace("http://www.w3.org/2000/svg", "")
                    .contains(outside),
                "{outside}"
            );
        }
    }
}
