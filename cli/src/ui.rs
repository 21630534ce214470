//! Talk to the user, on standard error. Every line passes through [`visible`].

use std::io::{self, IsTerminal, Write};

use crate::output::visible;

/// A line above this many characters is cut.
const MAX_LINE: usize = 4000;
/// A status above this many characters is cut: it cannot be taken back once it fills two lines.
const MAX_STATUS: usize = 78;
/// To the begin of the line, and the rest of it erased.
const CLEAR: &str = "\r\x1b[K";

/// Says things, as much as is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    quiet: bool,
    redraws: bool,
}

impl Ui {
    /// Notes and progress are left out when `quiet`; on a terminal that is not `dumb` progress is one
    /// line that is drawn anew.
    pub(crate) fn new(quiet: bool, dumb: bool) -> Self {
        Self {
            quiet,
            redraws: !dumb && io::stderr().is_terminal(),
        }
    }

    /// Whether anybody wants to know how things go.
    pub(crate) fn tells(self) -> bool {
        !self.quiet
    }

    /// Whether [`Self::status`] shows anything.
    pub(crate) fn redraws(self) -> bool {
        self.redraws && !self.quiet
    }

    /// What goes on now; replaces what was said so before, and is replaced by the next line.
    pub(crate) fn status(self, text: &str) {
        if self.redraws() {
            let _ = write!(io::stderr().lock(), "{CLEAR}{}", visible(text, MAX_STATUS));
        }
    }

    /// Takes the status away, before a line is said.
    pub(crate) fn end_status(self) {
        if self.redraws() {
            let _ = write!(io::stderr().lock(), "{CLEAR}");
        }
    }

    /// What was done, or is good to know.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            line(text);
        }
    }

    /// What may bite.
    pub(crate) fn warn(self, text: &str) {
        line(&format!("warning: {text}"));
    }

    /// Why the program ends without having done its work.
    pub(crate) fn error(self, error: &dyn std::error::Error, hints: &[String]) {
        line(&format!("error: {error}"));
        for cause in causes(error) {
            line(&format!("  cause: {cause}"));
        }
        for hint in hints {
            line(&format!("hint: {hint}"));
        }
    }
}

/// The messages below `error`, outermost first. One that the line above already ends with is left
/// out: not every library keeps its sources out of its own message.
pub(crate) fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut shown = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !shown.ends_with(&text) {
            causes.push(text.clone());
        }
        shown = text;
        next = cause.source();
    }
    causes
}

/// `error` and its causes in one line, for use inside a sentence.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    parts.extend(causes(error));
    parts.join(": ")
}

fn line(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", visible(text, MAX_LINE));
}
