//! Tables for people, as commands print them.

use std::fmt::Write;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The rows, each column as wide as its widest cell, two blanks between columns.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// To the minute, which is fine enough for people.
pub(crate) fn minute(moment: OffsetDateTime) -> String {
    let text = moment.format(&Rfc3339).unwrap_or_default();
    let minutes = text.get(..16).unwrap_or(&text).replace('T', " ");
    format!("{minutes}Z")
}
