//! What is found about the servers and the authorities of the site.

use super::super::facts::{Kind, Named, Site};
use super::super::report::Finding;
use crate::config::{CONSEQUENCE, Ending};

/// None of it keeps a server from starting.
pub(super) fn judge(site: &Site) -> Vec<Finding> {
    let trusted = site.trusted.iter().map(|it| authority(it, site));
    trusted.chain(site.named.iter().map(named)).collect()
}

fn authority(ending: &Ending, site: &Site) -> Finding {
    const NAME: &str = "site ca";
    match ending.trouble(site.now) {
        None => Finding::ok(NAME, ending.words()),
        Some(trouble) => Finding::warning(NAME, trouble).hint(CONSEQUENCE),
    }
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
