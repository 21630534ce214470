//! A guest's words, made fit for logs and terminals.

use remote_docker_api::is_dangerous;

/// Longest part of a log line that a guest may fill, in characters.
const MAX_CHARACTERS: usize = 120;

/// One short line, without what could disturb a terminal or a log.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_CHARACTERS)
        .map(|c| if is_dangerous(c) { '?' } else { c })
        .collect()
}

/// The last `max_bytes` of a text of several lines, without what could disturb a terminal.
#[must_use]
pub fn printable_lines(text: &str, max_bytes: usize) -> String {
    let begin = (text.len().saturating_sub(max_bytes)..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    let mut lines = String::with_capacity(text.len() - begin);
    for character in text[begin..].chars() {
        lines.push(match character {
            '\n' | '\t' => character,
            _ if is_dangerous(character) => '?',
            _ => character,
        });
    }
    // What replaces a character is never longer than it.
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_drive_a_terminal_nor_turn_a_line_around() {
        assert_eq!(
            printable("a\nb\u{1b}[2J\u{202e}c\u{2028}\u{200b}"),
            "a?b?[2J?c??"
        );
        assert_eq!(printable(&"ä".repeat(1000)).chars().count(), MAX_CHARACTERS);
        assert_eq!(printable_lines("a\tb\r\n\u{202e}c\n", 100), "a\tb?\n?c\n");
    }

    #[test]
    fn the_end_of_a_log_is_kept_and_its_length_is_bounded() {
        assert_eq!(printable_lines("one\ntwo\n", 4), "two\n");
        assert_eq!(printable_lines(&"ä".repeat(10), 5), "ää");
        assert_eq!(printable_lines("", 0), "");
    }
}
