//! What is found about the network.

use super::super::facts::{Facts, Filters, Forwarding, Look, Network};
use super::super::firewall::{self, Passage};
use super::super::report::{Finding, Verdict};
use super::look;

pub(super) fn judge(facts: &Facts, has_uplink: bool) -> Vec<Finding> {
    let mut findings = parts(&facts.network, has_uplink);
    if has_uplink {
        findings.push(forwarding(facts.forwarding));
        findings.push(firewall(&facts.filters));
        findings.extend(legacy(&facts.filters.legacy));
        findings.push(nameservers(facts.nameservers));
    }
    findings
}

fn parts(network: &Look<Network>, has_uplink: bool) -> Vec<Finding> {
    let Look::Seen(network) = network else {
        return vec![look("namespace", network, |_| {
            Finding::ok("namespace", "one can be made")
        })];
    };
    let part = |name, works: &str, outcome: &Result<(), String>| match outcome {
        Ok(()) => Finding::ok(name, works),
        Err(reason) => Finding::failed(name, reason),
    };
    let mut findings = vec![
        Finding::ok("namespace", "one can be made"),
        part("tap", "one can be made", &network.wire),
        part(
            "nftables",
            "the rules for guests can be loaded",
            &network.inside,
        ),
    ];
    if has_uplink {
        let works = "the guests' way to the host can be made";
        findings.push(part("uplink", works, &network.uplink));
    }
    findings
}

fn forwarding(forwarding: Forwarding) -> Finding {
    const NAME: &str = "forwarding";
    match (forwarding.is_on, forwarding.is_changeable) {
        (true, _) => Finding::ok(NAME, "IPv4 forwarding is on"),
        (false, true) => {
            Finding::warning(NAME, "IPv4 forwarding is off; the server switches it on").hint(
                "from then on this host forwards for others too: see to its packet filter, or keep \
                 guests from the Internet with `network.uplink = \"none\"`",
            )
        }
        (false, false) => {
            let what = "IPv4 forwarding is off, and this process cannot switch it on";
            Finding::failed(NAME, what).hint("switch it on with `sysctl -w net.ipv4.ip_forward=1`")
        }
    }
}

const LET_THEM: &str = "guests reach no Internet until it accepts what comes from the device `ru…` and \
                        the answers to it; where Docker runs on this host, that is done in its chain \
                        DOCKER-USER";

fn firewall(filters: &Filters) -> Finding {
    const NAME: &str = "firewall";
    look(NAME, &filters.nftables, |ruleset| {
        let obstacles = firewall::obstacles(ruleset, filters.way_out.as_deref());
        let Some((_, passage)) = obstacles.iter().max_by_key(|(_, passage)| *passage as u8) else {
            return Finding::ok(NAME, "no other packet filter drops what guests send");
        };
        let chains: Vec<&str> = obstacles.iter().map(|(chain, _)| chain.as_str()).collect();
        obstacle(NAME, &chains.join(", "), *passage)
    })
}

fn legacy(rules: &Look<Option<String>>) -> Option<Finding> {
    const NAME: &str = "iptables";
    let rules = match rules {
        // The finding about nftables says it already.
        Look::TakesRoot | Look::Seen(None) => return None,
        Look::Failed(reason) => {
            let what = format!("the rules of iptables-legacy cannot be read: {reason}");
            return Some(Finding::warning(NAME, what));
        }
        Look::Seen(Some(rules)) => rules,
    };
    Some(match firewall::legacy(rules) {
        Passage::Open => Finding::ok(NAME, "its chain FORWARD does not drop what guests send"),
        passage => obstacle(NAME, "FORWARD (iptables-legacy)", passage),
    })
}

fn obstacle(name: &'static str, chains: &str, passage: Passage) -> Finding {
    let (verdict, drops) = match passage {
        Passage::Closed => (Verdict::Failed, "drops"),
        Passage::Unsure | Passage::Open => (Verdict::Warning, "may drop"),
    };
    let what = format!("the host's packet filter {drops} what guests send or get: {chains}");
    Finding::new(name, verdict, what).hint(LET_THEM)
}

fn nameservers(count: usize) -> Finding {
    const NAME: &str = "nameservers";
    match count {
        0 => {
            let what = "the host has none that a guest can reach over IPv4";
            Finding::failed(NAME, what).hint("name some in `network.nameservers`")
        }
        count => Finding::ok(NAME, format!("guests are told {count}")),
    }
}
