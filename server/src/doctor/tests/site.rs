use time::{Duration, OffsetDateTime};

use super::after;
use crate::config::Ending;
use crate::doctor::facts::{Kind, Named};
use crate::doctor::report::Verdict;

#[test]
fn authorities_are_told_of_before_they_end() {
    let findings = after(|facts| {
        let file = |name: &str, days| Ending {
            file: name.into(),
            ends: OffsetDateTime::UNIX_EPOCH + Duration::days(days),
        };
        facts.site.trusted = vec![
            file("/good.pem", 15),
            file("/soon.pem", 14),
            file("/bad.pem", 0),
        ];
    });
    let [soon, bad] = &findings[..] else {
        panic!("{findings:?}")
    };
    for (found, words) in [(soon, "ends soon: /soon.pem"), (bad, "has ended: /bad.pem")] {
        assert_eq!((found.name, found.verdict), ("site ca", Verdict::Warning));
        assert!(found.detail.contains(words), "{found:?}");
    }
}

#[test]
fn servers_that_do_not_answer_are_no_reason_not_to_start() {
    let named = |kind, answer: Result<(), &str>| Named {
        kind,
        place: "mirror.example.org:443".to_owned(),
        answer: answer.map_err(str::to_owned),
    };
    let kinds = [Kind::Mirror, Kind::Proxy, Kind::Port];
    assert_eq!(
        after(|facts| facts.site.named = kinds.map(|kind| named(kind, Ok(()))).to_vec()),
        []
    );
    let findings =
        after(|facts| facts.site.named = kinds.map(|kind| named(kind, Err("nobody"))).to_vec());
    assert_eq!(findings.len(), 3);
    for found in &findings {
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(
            found.detail.contains("mirror.example.org:443") && found.detail.contains("nobody"),
            "{found:?}"
        );
        assert!(found.hint.is_some());
    }
}
