//! What was found, as text and as JSON; it looks like that of the client's `doctor`. No I/O here.

use std::fmt::Write;

use serde::Serialize;

use crate::words::visible;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do about it, where `detail` does not say it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, or some things do, or it could not be looked at.
    Warning,
    /// It does not work.
    Failed,
}

impl Finding {
    pub(super) fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            hint: None,
        }
    }

    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail)
    }

    pub(super) fn warning(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warning, detail)
    }

    pub(super) fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Failed, detail)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whether nothing failed.
#[must_use]
pub fn is_well(findings: &[Finding]) -> bool {
    let failed = |finding: &Finding| finding.verdict == Verdict::Failed;
    !findings.iter().any(failed)
}

/// A line for each finding, and one for each hint below it.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    findings.iter().fold(String::new(), |mut text, finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        let detail = visible(&finding.detail);
        let _ = writeln!(text, "{verdict:8} {:11} {detail}", finding.name);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "{:8} {:11} hint: {}", "", "", visible(hint));
        }
        text
    })
}

/// One object on one line: whether all is well, and the findings.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        well: bool,
        findings: &'a [Finding],
    }
    let well = is_well(findings);
    // Structs and lists always have a place in JSON, which escapes control characters.
    let report = serde_json::to_string(&Report { well, findings }).unwrap_or_default();
    report + "\n"
}
