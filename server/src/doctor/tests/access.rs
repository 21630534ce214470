//! What is said about certificates and issuers.

use time::{Duration, OffsetDateTime};

use super::super::facts::Certificate;
use super::*;
use crate::pki::SanName;
use crate::tls::Inspection;

const NOW: OffsetDateTime = time::macros::datetime!(2026-03-01 12:00 UTC);

fn names(names: &[&str]) -> Vec<SanName> {
    names.iter().map(|name| SanName::from_host(name)).collect()
}

/// The finding about a certificate that ends in so many days.
fn about(is_own: bool, days: i64, carried: &[&str], wanted: &[&str]) -> Finding {
    let certificate = Certificate {
        seen: Some(Inspection {
            is_own,
            file: "/etc/cert.pem".into(),
            validity: (NOW - Duration::days(1), NOW + Duration::days(days)),
            names: names(carried),
        }),
        wanted: names(wanted),
        now: NOW,
    };
    finding(Some(Ok(certificate)))
}

fn finding(fact: Option<Result<Certificate, String>>) -> Finding {
    let mut facts = good();
    facts.certificate = fact;
    let mut findings = judge(&facts, true);
    findings.retain(|finding| finding.name == "certificate");
    findings.pop().unwrap()
}

#[test]
fn a_certificate_is_good_for_its_time_and_for_the_names_that_clients_are_told() {
    use Verdict::{Failed, Ok as Well, Warning};
    for (is_own, days, carried, wanted, verdict, words) in [
        (
            false,
            30,
            "build.example",
            "build.example",
            Well,
            "until 2026-03-31",
        ),
        (
            false,
            14,
            "build.example",
            "BUILD.example",
            Well,
            "build.example",
        ),
        (
            false,
            13,
            "build.example",
            "build.example",
            Warning,
            "ends soon",
        ),
        (
            false,
            0,
            "build.example",
            "build.example",
            Failed,
            "has ended",
        ),
        (true, 180, "build.example", "build.example", Well, "until"),
        (
            true,
            179,
            "build.example",
            "build.example",
            Warning,
            "ends soon",
        ),
        (false, 90, "*.example", "build.example", Well, "*.example"),
        (
            false,
            90,
            "*.example",
            "a.build.example",
            Warning,
            "not good for a.build.example",
        ),
        (false, 90, "192.0.2.7", "192.0.2.7", Well, "192.0.2.7"),
        (
            false,
            90,
            "build.example",
            "192.0.2.7",
            Warning,
            "not good for 192.0.2.7",
        ),
    ] {
        let finding = about(is_own, days, &[carried], &[wanted]);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.detail.contains(words), "{finding:?}");
        assert_eq!(finding.hint.is_some(), verdict != Well, "{finding:?}");
    }
    let early = Certificate {
        seen: Some(Inspection {
            is_own: false,
            file: "/c".into(),
            validity: (NOW + Duration::HOUR, NOW + Duration::days(90)),
            names: Vec::new(),
        }),
        wanted: Vec::new(),
        now: NOW,
    };
    assert_eq!(finding(Some(Ok(early))).verdict, Failed);
    let first = Certificate {
        seen: None,
        wanted: names(&["build.example"]),
        now: NOW,
    };
    let first = finding(Some(Ok(first)));
    assert!(
        first.verdict == Well && first.detail.contains("first start"),
        "{first:?}"
    );
    assert_eq!(finding(None).verdict, Well);
    assert_eq!(finding(Some(Err("no key".to_owned()))).verdict, Failed);
}

#[test]
fn an_issuer_that_cannot_be_reached_is_no_reason_not_to_start() {
    let findings = after(|facts| {
        facts.issuers = vec![
            ("https://good.example".to_owned(), Ok(2)),
            (
                "https://away.example".to_owned(),
                Err("cannot connect".to_owned()),
            ),
        ];
    });
    let [away] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!((away.name, away.verdict), ("oidc issuer", Verdict::Warning));
    assert!(
        away.detail.contains("away.example: cannot connect"),
        "{away:?}"
    );
}

#[test]
fn bounds_that_the_kernel_does_not_keep_are_told_and_keep_nobody_from_starting() {
    for (fact, words) in [
        (None, "enabled"),
        (Some(vec!["memory: none".to_owned()]), "memory: none"),
    ] {
        let findings = after(|facts| facts.control_groups = Look::Seen(fact));
        let [found] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(
            (found.name, found.verdict),
            ("qemu bounds", Verdict::Warning)
        );
        assert!(found.detail.contains(words), "{found:?}");
    }
}
