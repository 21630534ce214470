//! Text that somebody else wrote, on its way to a terminal or a log.

/// Whether a terminal may obey this character, or a reader may be deceived by it: control characters,
/// and those that end a line, reorder or hide what stands around them.
#[must_use]
pub fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_told_from_what_people_write() {
        for character in
            "\0\n\x1b\x7f\u{9b}\u{61c}\u{200b}\u{200f}\u{2028}\u{202e}\u{2066}\u{feff}".chars()
        {
            assert!(is_dangerous(character), "{character:?}");
        }
        for character in "aß €✓漢\u{301}🐳".chars() {
            assert!(!is_dangerous(character), "{character:?}");
        }
    }
}
