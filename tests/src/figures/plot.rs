//! Plots of samples: a line for each figure with all of its samples, its median, and what is asked of it, over an
//! axis by powers of ten, so that a millisecond and ten seconds are both seen.

use std::fmt::Write as _;

use super::page::escaped;
use super::{Figure, Part, Unit, number, quantile};

const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 30.0;
const LINE: f64 = 24.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// Less than this is drawn as this: a scale by powers of ten has no zero.
const LEAST: f64 = 1e-3;

/// How many samples of a figure are drawn.
const MOST_SHOWN: usize = 200;

/// A plot for each unit of the part's figures that were measured more than once.
pub(super) fn plots(part: &Part) -> String {
    let mut units: Vec<Unit> = Vec::new();
    for figure in part.figures.iter().filter(|it| it.samples.len() > 1) {
        if !units.contains(&figure.unit) {
            units.push(figure.unit);
        }
    }
    let plots = units.into_iter().map(|unit| {
        let figures = part.figures.iter().filter(|figure| figure.unit == unit);
        plot(&figures.collect::<Vec<_>>(), unit)
    });
    plots.collect()
}

/// Places on the axis.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// From a power of ten to a power of ten, with everything in between.
    fn of(figures: &[&Figure]) -> Self {
        let goals = figures.iter().filter_map(|figure| figure.goal);
        let samples = figures
            .iter()
            .flat_map(|figure| figure.samples.iter().copied());
        let all = samples.chain(goals.map(|goal| goal.value()));
        let all: Vec<f64> = all.map(|value| value.max(LEAST).log10()).collect();
        let low = all.iter().copied().fold(f64::INFINITY, f64::min).floor();
        let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
        Self {
            low,
            high: high.max(low + 1.0),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.max(LEAST).log10() - self.low) / (self.high - self.low);
        LEFT + WIDTH * share
    }

    /// The marks of the axis: 1, 2 and 5 of each power of ten, or the powers alone where there are many.
    fn marks(&self) -> Vec<f64> {
        let steps: &[f64] = if self.high - self.low > 3.0 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let powers = (self.low as i32)..=(self.high as i32);
        let marks =
            powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        marks
            .filter(|mark| mark.log10() <= self.high + 1e-9)
            .collect()
    }
}

fn plot(figures: &[&Figure], unit: Unit) -> String {
    let scale = Scale::of(figures);
    let bottom = TOP + LINE * figures.len() as f64;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    // Writing to a string cannot fail.
    for mark in scale.marks() {
        let x = scale.x(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{} {}</text>",
            bottom + 16.0,
            number(mark),
            unit.name()
        );
    }
    for (place, figure) in figures.iter().enumerate() {
        let _ = row(&mut svg, figure, &scale, TOP + LINE * (place as f64 + 0.5));
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, figure: &Figure, scale: &Scale, y: f64) -> std::fmt::Result {
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        LEFT - 12.0,
        y + 4.0,
        escaped(&figure.name)
    )?;
    for sample in shown(&figure.samples) {
        let x = scale.x(sample);
        writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"#1565c0\" fill-opacity=\"0.35\"/>"
        )?;
    }
    let summary = figure.summary();
    let x = scale.x(summary.median);
    writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#0d2c54\" stroke-width=\"2.5\">\
         <title>median {} {}, p95 {}</title></line>",
        y - 9.0,
        y + 9.0,
        number(summary.median),
        figure.unit.name(),
        number(summary.p95)
    )?;
    let Some(goal) = figure.goal else {
        return Ok(());
    };
    let x = scale.x(goal.value());
    writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#b00020\" stroke-width=\"1.5\" \
         stroke-dasharray=\"3 2\"><title>asked: {}</title></line>",
        y - 11.0,
        y + 11.0,
        escaped(&goal.words())
    )
}

/// All of them, or as many as can be told apart, evenly from the least to the most.
fn shown(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.len() <= MOST_SHOWN {
        return sorted;
    }
    let steps = (0..MOST_SHOWN).map(|step| step as f64 / (MOST_SHOWN - 1) as f64);
    steps.map(|share| quantile(&sorted, share)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::report;

    #[test]
    fn every_sample_is_drawn_inside_the_plot() {
        let report = report();
        let figures: Vec<&Figure> = report.parts[0].figures.iter().collect();
        let svg = plot(&figures, Unit::Ms);
        assert_eq!(svg.matches("<circle").count(), 4);
        let scale = Scale::of(&figures);
        assert_eq!((scale.low, scale.high), (1.0, 3.0));
        for value in [10.0, 1000.0] {
            let x = scale.x(value);
            assert!((LEFT..=LEFT + WIDTH).contains(&x), "{value}: {x}");
        }
        assert_eq!(
            scale.marks(),
            [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        );
    }

    #[test]
    fn nothing_and_equal_samples_have_a_place_too() {
        let figure = Figure {
            name: "none".to_owned(),
            unit: Unit::Ms,
            goal: None,
            samples: vec![0.0, 0.0],
        };
        let svg = plot(&[&figure], Unit::Ms);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn of_very_many_samples_the_ends_are_drawn() {
        let samples: Vec<f64> = (0..5000).rev().map(f64::from).collect();
        let shown = shown(&samples);
        assert_eq!(shown.len(), MOST_SHOWN);
        assert_eq!((shown[0], shown[MOST_SHOWN - 1]), (0.0, 4999.0));
    }
}
