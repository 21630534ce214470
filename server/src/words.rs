//! Errors as people are told them where there is one line for each.

/// An error with its causes, without line ends.
pub(crate) fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let chain: Vec<String> = chain.map(ToString::to_string).collect();
    let words: Vec<&str> = chain.iter().flat_map(|text| text.lines()).collect();
    let words: Vec<&str> = words.into_iter().map(str::trim).collect();
    words.join(": ")
}
