//! Looks at everything that a machine is used through: the server, the token, the clocks, the docker CLI, the
//! place for keys. Each look is bounded in time, and one that fails keeps no other from being made.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::macros::format_description;

use crate::args::GlobalArgs;
use crate::client::{ApiError, Client};
use crate::clock;
use crate::config::{self, ConfigError, LeaseAccess};
use crate::environment::Environment;
use crate::error::CliError;
use crate::lease_dir::Base;
use crate::transport::Answer;
use crate::ui::in_one_line;

mod docker;
pub(crate) mod report;

use report::Finding;

/// The server's certificates begin so long before they are made: a clock that is more behind finds them
/// not valid yet.
const BEHIND_LIMIT_S: i64 = 300;
/// They outlast their lease by so long: a clock that is more ahead finds them expired too early.
const AHEAD_LIMIT_S: i64 = 3600;
/// A difference that means nothing, beside the time that the answer took: HTTP tells whole seconds.
const CLOCK_NOISE_S: i64 = 3;

/// Looks at everything.
pub(crate) async fn examine(flags: &GlobalArgs, environment: &Environment) -> Vec<Finding> {
    let (remote, docker) = tokio::join!(server(flags, environment), docker::look(environment));
    let mut findings = remote;
    findings.extend(docker);
    findings.push(proxy(environment));
    findings.push(keys(environment));
    findings.extend(elsewhere(environment));
    findings
}

async fn server(flags: &GlobalArgs, environment: &Environment) -> Vec<Finding> {
    let (mut settings, token) =
        match config::load_but_token(flags, environment, &LeaseAccess::default()) {
            Ok(loaded) => loaded,
            Err(error) => return vec![from_error("settings", error.into())],
        };
    let anonymous = Client::new(&settings);
    let name = settings.server.to_string();
    let asked_at = Instant::now();
    let (alive, ready) = tokio::join!(anonymous.probe("/healthz"), anonymous.probe("/readyz"));
    let mut findings = match alive {
        Ok(answer) if answer.status.is_success() => {
            let clock = clock(&answer.date, clock::now(), asked_at.elapsed());
            vec![Finding::ok("server", format!("{name} answers")), clock]
        }
        Ok(answer) => {
            let what = format!("{name} answers /healthz with {}", answer.status);
            let hint = "is that the address of a remote-dockerd?";
            return vec![Finding::failed("server", what).hint(hint)];
        }
        Err(error) => {
            let server = if matches!(error, ApiError::Tls { .. }) {
                from_error("server", error.into())
            } else {
                Finding::failed("server", in_one_line(&error)).hint(
                    "start one there with `remote-dockerd`, or name another with REMOTE_DOCKER_URL or --url",
                )
            };
            return vec![server, unseen("token", token)];
        }
    };
    findings.extend(
        settings
            .warnings
            .iter()
            .map(|warning| Finding::warning("settings", warning)),
    );
    if settings.server.is_tls() {
        let whom = if settings.trust.is_pinned() {
            "the authority that was given"
        } else {
            "an authority of this system"
        };
        let what = format!("TLS, with a certificate of {whom}");
        findings.push(Finding::ok("encryption", what));
    } else if settings.server.is_open() {
        let what = format!("the token goes to {name} unencrypted");
        findings.push(
            Finding::warning("encryption", what)
                .hint("https://, or a tunnel to a loopback address such as `ssh -L`, protects it"),
        );
    }
    findings.push(readiness(ready));
    findings.push(match token {
        Ok(good) => {
            settings.token = good;
            match Client::new(&settings).list().await {
                Ok(list) => {
                    let count = list.leases.len();
                    let what = format!("it is good; {count} leases of its project have not ended");
                    Finding::ok("token", what)
                }
                Err(error) => from_error("token", error.into()),
            }
        }
        Err(error) => from_error("token", error.into()),
    });
    findings
}

fn unseen<T>(name: &'static str, token: Result<T, ConfigError>) -> Finding {
    match token {
        Ok(_) => Finding::warning(name, "there is one; it was not tried"),
        Err(error) => from_error(name, error.into()),
    }
}

/// A failure with what every command says about it.
fn from_error(name: &'static str, error: CliError) -> Finding {
    let finding = Finding::failed(name, in_one_line(&error));
    match error.hints().into_iter().next() {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn readiness(answer: Result<Answer, ApiError>) -> Finding {
    match answer {
        Ok(answer) if answer.status.is_success() => {
            Finding::ok("leases", "the server can serve them")
        }
        Ok(answer) => {
            let (reasons, failed) = unready_parts(&answer.body);
            if failed || reasons.is_empty() {
                let what = format!("the server can serve none: {}", reasons.join("; "));
                let hint = "its operator finds more in its log";
                Finding::failed("leases", what.trim_end_matches(": ")).hint(hint)
            } else {
                let what = format!("the server is not ready yet: {}", reasons.join("; "));
                Finding::warning("leases", what).hint("leases that are asked for now wait for it")
            }
        }
        Err(error) => from_error("leases", error.into()),
    }
}

/// The parts that are not as they should be in an answer of `/readyz`, and whether one has failed for good.
fn unready_parts(body: &[u8]) -> (Vec<String>, bool) {
    let report: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let parts = report["checks"].as_object().into_iter().flatten();
    let parts: Vec<_> = parts.filter(|(_, check)| check["state"] != "ok").collect();
    let failed = parts.iter().any(|(_, check)| check["state"] == "failed");
    let told = parts
        .iter()
        .map(|(part, check)| match check["reason"].as_str() {
            Some(reason) => format!("{part}: {reason}"),
            None => (*part).clone(),
        });
    (told.collect(), failed)
}

/// Compares the clocks; `date` is the server's, as HTTP writes it, in an answer that took so long.
fn clock(date: &str, now: OffsetDateTime, took: Duration) -> Finding {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let Ok(server) = time::PrimitiveDateTime::parse(date, format) else {
        return Finding::warning("clock", "the server's answer does not tell its time");
    };
    // The server's has whole seconds.
    let seconds = (now - server.assume_utc()).whole_seconds();
    let direction = if seconds < 0 { "behind" } else { "ahead of" };
    let what = format!(
        "this machine's is {} s {direction} the server's",
        seconds.abs()
    );
    let noise = CLOCK_NOISE_S + i64::try_from(took.as_secs()).unwrap_or(0);
    if seconds.abs() <= noise {
        Finding::ok("clock", "it agrees with the server's")
    } else if (1 - BEHIND_LIMIT_S..AHEAD_LIMIT_S).contains(&seconds) {
        Finding::warning("clock", what)
    } else {
        let hint = "docker finds the certificates of leases expired, or not valid yet; set the clock, for \
                    example with NTP";
        Finding::failed("clock", what).hint(hint)
    }
}

fn proxy(environment: &Environment) -> Finding {
    Finding::ok(
        "proxy",
        if environment.has_proxy {
            "one is set; this program does not use it, and leases are taken out of it by NO_PROXY"
        } else {
            "none is set"
        },
    )
}

fn keys(environment: &Environment) -> Finding {
    match Base::prepare(environment).and_then(|base| base.try_out()) {
        Ok(path) => Finding::ok("keys", format!("they are kept in {}", path.display())),
        Err(error) => from_error("keys", error.into()),
    }
}

/// What keeps `docker` from the daemon of a lease, or from agreeing with it.
fn elsewhere(environment: &Environment) -> Vec<Finding> {
    let context = environment.docker_context.as_ref().map(|context| {
        let what = format!("DOCKER_CONTEXT is set, to {}", context.display());
        Finding::warning("context", what)
            .hint("docker lets DOCKER_HOST win; tools around it may not, so better unset it")
    });
    let version = environment.docker_api_version.as_ref().map(|version| {
        let what = format!("DOCKER_API_VERSION is set, to {}", version.display());
        Finding::warning("api", what)
            .hint("docker does not ask the engine then which version both speak; better unset it")
    });
    context.into_iter().chain(version).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::report::Verdict;
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_apart_from_noise() {
        let date = "Sat, 31 Jan 2026 12:00:00 GMT";
        for (now, verdict, words) in [
            (datetime!(2026-01-31 12:00:03.9 UTC), Verdict::Ok, "agrees"),
            (datetime!(2026-01-31 11:59:57 UTC), Verdict::Ok, "agrees"),
            (
                datetime!(2026-01-31 12:00:10 UTC),
                Verdict::Warning,
                "10 s ahead of",
            ),
            (
                datetime!(2026-01-31 11:59:50 UTC),
                Verdict::Warning,
                "10 s behind",
            ),
            (
                datetime!(2027-01-31 12:00:00 UTC),
                Verdict::Failed,
                "31536000 s ahead of",
            ),
        ] {
            let finding = clock(date, now, Duration::ZERO);
            assert_eq!(finding.verdict, verdict, "{now}");
            assert!(finding.detail.contains(words), "{finding:?}");
        }
        let slow = clock(
            date,
            datetime!(2026-01-31 12:00:10 UTC),
            Duration::from_secs(8),
        );
        assert_eq!(slow.verdict, Verdict::Ok);
        for date in ["", "yesterday", "Sat, 31 Jan 2026 12:00:00 CET"] {
            let finding = clock(date, datetime!(2026-01-31 12:00 UTC), Duration::ZERO);
            assert_eq!(finding.verdict, Verdict::Warning, "{date}");
        }
    }
}
