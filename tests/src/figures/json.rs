//! The report for programs. `docs/performance.md` describes the schema.

use serde_json::{Value as Json, json};

use super::{Figure, Goal, Part, Report, Value};

/// Number of the schema; a change that a reader would stumble over gets the next.
pub const SCHEMA: u32 = 1;

impl Report {
    /// The document.
    #[must_use]
    pub fn json(&self) -> Json {
        json!({
            "schema": SCHEMA,
            "taken_at": self.taken_at,
            "machine": self.host,
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }
}

fn part(part: &Part) -> Json {
    json!({
        "name": part.name,
        "about": part.about,
        "load": part.load,
        "figures": part.figures.iter().map(figure).collect::<Vec<_>>(),
        "values": part.values.iter().map(value).collect::<Vec<_>>(),
        "notes": part.notes,
    })
}

fn figure(figure: &Figure) -> Json {
    let summary = figure.summary();
    json!({
        "name": figure.name,
        "unit": figure.unit.name(),
        "n": summary.n,
        "median": summary.median,
        "p95": summary.p95,
        "min": summary.min,
        "max": summary.max,
        "asked": asked(figure.goal, summary.median),
        "samples": figure.samples,
    })
}

fn value(value: &Value) -> Json {
    json!({
        "name": value.name,
        "unit": value.unit.name(),
        "value": value.value,
        "asked": asked(value.goal, value.value),
    })
}

/// `null` where nothing is asked.
fn asked(goal: Option<Goal>, value: f64) -> Json {
    let Some(goal) = goal else { return Json::Null };
    let bound = match goal {
        Goal::AtMost(_) => "at_most",
        Goal::AtLeast(_) => "at_least",
    };
    json!({ bound: goal.value(), "reached": goal.is_reached(value) })
}

#[cfg(test)]
mod tests {
    use crate::figures::tests::report;

    #[test]
    fn the_schema_is_what_it_was() {
        let expected = serde_json::json!({
            "schema": 1,
            "taken_at": "2026-01-02T03:04:05Z",
            "machine": {
                "processor": "Some & Co", "processors": 2, "memory_mib": 24_000, "kernel": "6.1.0",
                "accelerator": "tcg", "qemu": "10.0.2", "libvirt": "11.3.0", "load": 0.5,
            },
            "parts": [{
                "name": "cold", "about": "A <cold> lease.", "load": 0.25,
                "figures": [
                    {
                        "name": "a lease", "unit": "ms", "n": 3, "median": 20.0, "p95": 29.0, "min": 10.0,
                        "max": 30.0, "asked": { "at_most": 60.0, "reached": true },
                        "samples": [30.0, 10.0, 20.0],
                    },
                    {
                        "name": "a boot", "unit": "ms", "n": 1, "median": 400.0, "p95": 400.0, "min": 400.0,
                        "max": 400.0, "asked": null, "samples": [400.0],
                    },
                ],
                "values": [{
                    "name": "lease to boot", "unit": "×", "value": 20.0,
                    "asked": { "at_least": 30.0, "reached": false },
                }],
                "notes": ["Nothing else ran."],
            }],
        });
        assert_eq!(report().json(), expected);
    }
}
