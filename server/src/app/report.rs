//! What the reconciler says about itself, as the parts that `/readyz` shows.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::http::{Check, Readiness};
use crate::reconcile::{Status, Trouble};

/// The parts there are from the start. One more, `server`, shows while a server is being drained.
pub(super) const PARTS: [&str; 6] = ["database", "disk", "host", "machines", "ports", "templates"];

/// Passes on what the reconciler says for as long as it runs.
pub(super) async fn follow(mut status: watch::Receiver<Status>, readiness: Readiness) {
    loop {
        let now = status.borrow_and_update().clone();
        for (part, check) in checks(&now) {
            readiness.set(part, check);
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn checks(status: &Status) -> BTreeMap<&'static str, Check> {
    let mut checks: BTreeMap<_, _> = PARTS.into_iter().map(|part| (part, Check::Ok)).collect();
    if !status.looked {
        let why = "has not been looked at yet".to_owned();
        checks.insert("host", Check::Pending(why));
    }
    if let Some(why) = &status.disk {
        checks.insert("disk", Check::Pending(why.clone()));
    }
    checks.insert("templates", templates(status));
    for (trouble, why) in &status.troubles {
        let (part, fatal) = match trouble {
            Trouble::Database => ("database", true),
            Trouble::Host => ("host", true),
            Trouble::Ports | Trouble::Routes => ("ports", false),
            Trouble::Starts(_) | Trouble::TearDown(_) => ("machines", false),
        };
        let check = match checks.get(part) {
            // Each part has one line: what is fatal first.
            Some(Check::Failed(_)) => continue,
            Some(Check::Degraded(other)) if !fatal => Check::Degraded(format!("{other}; {why}")),
            _ if fatal => Check::Failed(why.clone()),
            _ => Check::Degraded(why.clone()),
        };
        checks.insert(part, check);
    }
    if let Some(why) = &status.closing {
        checks.insert("server", Check::Failed(why.clone()));
    }
    checks
}

fn templates(status: &Status) -> Check {
    if !status.preparing.is_empty() {
        let kinds: Vec<&str> = status.preparing.iter().map(String::as_str).collect();
        return Check::Pending(format!("being built for {}", kinds.join(", ")));
    }
    if status.cold.is_empty() {
        return Check::Ok;
    }
    let kind = |(kind, why): (&String, &String)| format!("{kind}: {why}");
    let kinds: Vec<String> = status.cold.iter().map(kind).collect();
    Check::Degraded(format!(
        "machines boot cold, which is slower: {}",
        kinds.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(troubles: &[(Trouble, &str)]) -> BTreeMap<&'static str, Check> {
        let troubles = troubles
            .iter()
            .map(|(trouble, why)| (trouble.clone(), (*why).to_owned()));
        checks(&Status {
            looked: true,
            troubles: troubles.collect(),
            ..Status::default()
        })
    }

    #[test]
    fn a_server_without_troubles_is_ready_once_it_has_looked() {
        assert!(with(&[]).values().all(|check| *check == Check::Ok));
        let first = checks(&Status::default());
        assert!(matches!(first["host"], Check::Pending(_)), "{first:?}");
    }

    #[test]
    fn a_failing_database_is_no_matter_of_waiting() {
        let checks = with(&[(Trouble::Database, "disk full")]);
        assert_eq!(checks["database"], Check::Failed("disk full".into()));
        assert_eq!(checks["host"], Check::Ok);
    }

    #[test]
    fn lesser_troubles_of_one_part_are_all_told() {
        let checks = with(&[
            (Trouble::Starts("26/small".into()), "a"),
            (Trouble::Starts("26/large".into()), "b"),
            (Trouble::Ports, "c"),
        ]);
        assert_eq!(checks["machines"], Check::Degraded("b; a".into()));
        assert_eq!(checks["ports"], Check::Degraded("c".into()));
    }

    #[test]
    fn a_server_that_is_being_drained_says_so() {
        let checks = checks(&Status {
            looked: true,
            closing: Some("is being drained".into()),
            ..Status::default()
        });
        assert_eq!(checks["server"], Check::Failed("is being drained".into()));
    }
}
