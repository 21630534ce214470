//! What others wrote or chose, as people are told it where there is one line for each.

use remote_docker_api::is_dangerous;

/// An error with its causes, without line ends.
pub(crate) fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let chain: Vec<String> = chain.map(ToString::to_string).collect();
    let words: Vec<&str> = chain.iter().flat_map(|text| text.lines()).collect();
    let words: Vec<&str> = words.into_iter().map(str::trim).collect();
    words.join(": ")
}

/// Paths and other programs' words, without what a terminal would obey.
pub(crate) fn visible(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, character| {
        if is_dangerous(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        shown
    })
}
