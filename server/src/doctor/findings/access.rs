//! What is found about who comes in: the API's certificate and the CI systems whose tokens are taken.

use time::{Duration, OffsetDateTime};

use super::super::facts::Certificate;
use super::super::report::{Finding, Verdict};
use crate::pki::SanName;
use crate::tls::Inspection;

/// A certificate of the operator's is renewed by then, if somebody sees to it.
const GIVEN_WARN_BEFORE: Duration = Duration::days(14);
/// A new authority has to be given to every client.
const OWN_WARN_BEFORE: Duration = Duration::days(180);

pub(super) fn certificate(fact: Option<&Result<Certificate, String>>) -> Finding {
    const NAME: &str = "certificate";
    let certificate = match fact {
        None => return Finding::ok(NAME, "none: the API speaks no TLS with this configuration"),
        Some(Err(reason)) => return Finding::failed(NAME, reason),
        Some(Ok(certificate)) => certificate,
    };
    let Some(seen) = &certificate.seen else {
        let names = words(&certificate.wanted);
        return Finding::ok(
            NAME,
            format!("the first start makes an authority; names: {names}"),
        );
    };
    let (begins, ends) = (date(seen.validity.0), date(seen.validity.1));
    let what = format!(
        "{}, until {ends}; names: {}",
        seen.file.display(),
        words(&seen.names)
    );
    let missing: Vec<SanName> = certificate
        .wanted
        .iter()
        .filter(|wanted| !seen.names.iter().any(|name| covers(name, wanted)))
        .cloned()
        .collect();
    let (verdict, what, hint) = match trouble(seen, certificate.now) {
        Some((verdict, trouble)) => (verdict, format!("{trouble}: {what}"), renew(seen)),
        None if certificate.now < seen.validity.0 => (
            Verdict::Failed,
            format!("begins at {begins} only: {what}"),
            "set the host's clock, or have another certificate made",
        ),
        None if !missing.is_empty() => (
            Verdict::Warning,
            format!("not good for {}: {what}", words(&missing)),
            "clients that call the server so refuse it: have a certificate made with these names, or take them \
             out of `http.names` and `relay.advertise`",
        ),
        None => return Finding::ok(NAME, what),
    };
    Finding::new(NAME, verdict, what).hint(hint)
}

fn trouble(seen: &Inspection, now: OffsetDateTime) -> Option<(Verdict, &'static str)> {
    let warn_before = if seen.is_own {
        OWN_WARN_BEFORE
    } else {
        GIVEN_WARN_BEFORE
    };
    let left = seen.validity.1 - now;
    if left <= Duration::ZERO {
        Some((Verdict::Failed, "has ended"))
    } else if left < warn_before {
        Some((Verdict::Warning, "ends soon"))
    } else {
        None
    }
}

fn renew(seen: &Inspection) -> &'static str {
    if seen.is_own {
        "delete it and its key, start the server again, and give the new certificate (`remote-dockerd ca`) to \
         all clients"
    } else {
        "have it renewed; a server that runs reads it again by itself"
    }
}

/// Whether a name of a certificate is good for what a client calls the server; `*` stands for one part.
fn covers(name: &SanName, wanted: &SanName) -> bool {
    match (name, wanted) {
        (SanName::Dns(name), SanName::Dns(wanted)) => match name.strip_prefix("*.") {
            Some(rest) => wanted
                .split_once('.')
                .is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(rest)),
            None => name.eq_ignore_ascii_case(wanted),
        },
        _ => name == wanted,
    }
}

fn words(names: &[SanName]) -> String {
    let word = |name: &SanName| match name {
        SanName::Dns(name) => name.clone(),
        SanName::Ip(address) => address.to_string(),
    };
    names.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn date(moment: OffsetDateTime) -> String {
    moment.date().to_string()
}

pub(super) fn issuers(issuers: &[(String, Result<usize, String>)]) -> Vec<Finding> {
    const NAME: &str = "oidc issuer";
    let finding = |(issuer, asked): &(String, Result<usize, String>)| {
        match asked {
        Ok(keys) => Finding::ok(NAME, format!("{issuer} answers, with {keys} keys for signatures")),
        Err(reason) => Finding::warning(NAME, format!("{issuer}: {reason}")).hint(
            "the server starts all the same and refuses its tokens until the keys can be fetched: check \
             `[[oidc]]`, the way there (`HTTPS_PROXY` and `NO_PROXY` count), and `ca_file`",
        ),
    }
    };
    issuers.iter().map(finding).collect()
}
