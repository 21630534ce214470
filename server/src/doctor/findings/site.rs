//! What is found about the servers and the authorities of the site.

use time::Duration;

use super::super::facts::{Kind, Named, Site, Trusted};
use super::super::report::Finding;

/// A new certificate has to reach whoever configures the server.
const WARN_BEFORE: Duration = Duration::days(14);

/// None of it keeps a server from starting.
pub(super) fn judge(site: &Site) -> Vec<Finding> {
    let trusted = site.trusted.iter().map(|it| authority(it, site));
    trusted.chain(site.named.iter().map(named)).collect()
}

fn authority(trusted: &Trusted, site: &Site) -> Finding {
    const NAME: &str = "site ca";
    let left = trusted.ends - site.now;
    let what = format!("{}, until {}", trusted.file.display(), trusted.ends.date());
    if left > WARN_BEFORE {
        return Finding::ok(NAME, what);
    }
    let when = if left <= Duration::ZERO {
        "has ended"
    } else {
        "ends soon"
    };
    Finding::warning(NAME, format!("{when}: {what}")).hint(
        "machines do not believe what it signed any more from then on: put the site's new certificate beside it \
         in time, and start the server again",
    )
}

fn named(named: &Named) -> Finding {
    let Named {
        kind,
        place,
        answer,
    } = named;
    let (name, hint) = match kind {
        Kind::Mirror => (
            "site mirror",
            "machines ask the next one meanwhile, and in the end Docker Hub itself",
        ),
        Kind::Proxy => (
            "site proxy",
            "without it machines reach nothing outside but what `site.proxy.except` names",
        ),
        Kind::Port => (
            "site port",
            "`site.reach_on_host` opens it to machines: start what is to listen there, or take it out",
        ),
    };
    match answer {
        Ok(()) => Finding::ok(name, format!("{place} answers")),
        Err(why) => {
            Finding::warning(name, format!("{place}, asked from this host: {why}")).hint(hint)
        }
    }
}
