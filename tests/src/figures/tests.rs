//! The figures and what is shown of them.

use super::*;

/// A report with everything in it that there can be.
pub(super) fn report() -> Report {
    let mut part = Part::begin("cold", "A <cold> lease.");
    part.load = 0.25;
    for ms in [30, 10, 20] {
        part.time("a lease", Duration::from_millis(ms));
    }
    part.time("a boot", Duration::from_millis(400));
    part.ask("a lease", Goal::AtMost(60.0));
    part.ratio(
        "lease to boot",
        "a boot",
        "a lease",
        Some(Goal::AtLeast(30.0)),
    );
    part.note("Nothing else ran.");
    Report {
        taken_at: "2026-01-02T03:04:05Z".to_owned(),
        host: Facts {
            processor: "Some & Co".to_owned(),
            processors: 2,
            memory_mib: 24_000,
            kernel: "6.1.0".to_owned(),
            accelerator: "tcg".to_owned(),
            qemu: "10.0.2".to_owned(),
            libvirt: "11.3.0".to_owned(),
            load: 0.5,
        },
        parts: vec![part],
    }
}

#[test]
fn a_quantile_lies_between_its_neighbours() {
    let values = [1.0, 2.0, 3.0, 10.0];
    assert_eq!(quantile(&values, 0.0), 1.0);
    assert_eq!(quantile(&values, 0.5), 2.5);
    assert_eq!(quantile(&values, 1.0), 10.0);
    assert_eq!(quantile(&[7.0], 0.95), 7.0);
}

#[test]
fn samples_of_one_name_are_one_figure() {
    let report = report();
    let figure = &report.parts[0].figures[0];
    let summary = figure.summary();
    assert_eq!(
        summary,
        Summary {
            n: 3,
            median: 20.0,
            p95: 29.0,
            min: 10.0,
            max: 30.0
        }
    );
    assert_eq!(report.parts[0].figures.len(), 2);
}

#[test]
fn a_ratio_is_of_medians_and_is_judged() {
    let value = &report().parts[0].values[0];
    assert_eq!(value.value, 20.0);
    assert!(!value.goal.unwrap().is_reached(value.value));
    assert!(Goal::AtMost(20.0).is_reached(20.0));
    assert!(Goal::AtLeast(20.0).is_reached(20.0));
    assert!(!Goal::AtMost(20.0).is_reached(20.1));
}

#[test]
fn numbers_have_the_digits_that_tell_something() {
    let said = [1234.5, 50.0, 12.34, 1.234, 0.0123, 0.0].map(number);
    assert_eq!(said, ["1234", "50", "12.3", "1.23", "0.012", "0"]);
}
