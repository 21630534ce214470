//! Whether the packet filters of a host let the guests' packets through. Pure: reads what `nft` printed.
//!
//! Every base chain of the forward hook must accept a packet, so a single one that drops what it does not
//! know is in the way. The rules are followed for two packets: the first one of a connection from a guest to
//! the Internet, and an answer to it. A condition that is not understood may be true or not.

use serde_json::Value;

/// How far a packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// No rule for all such packets stands in its way.
    Open,
    /// It is dropped unless a rule accepts it that is not understood here.
    Unsure,
    /// It is dropped.
    Closed,
}

/// Chains that drop packets of guests, such as `ip filter FORWARD`, with how certain that is.
pub(super) fn obstacles(ruleset: &Value, way_out: Option<&str>) -> Vec<(String, Passage)> {
    let rules = Ruleset(items(ruleset, "nftables"));
    let packets = [
        Packet {
            from: Device::Uplink,
            to: Device::Host(way_out),
            state: "new",
        },
        Packet {
            from: Device::Host(way_out),
            to: Device::Uplink,
            state: "established",
        },
    ];
    let mut found = Vec::new();
    for chain in rules.forward_chains() {
        let passages = packets.iter().map(|packet| rules.passage(chain, packet));
        let worst = passages.max_by_key(|passage| *passage as u8);
        if let Some(passage) = worst.filter(|passage| *passage != Passage::Open) {
            let name = ["family", "table", "name"].map(|key| text(&chain[key]));
            found.push((name.join(" "), passage));
        }
    }
    found
}

/// Whether iptables' old interface drops what no rule of it accepts, judged by what `iptables-legacy -S
/// FORWARD` prints.
pub(super) fn legacy(rules: &str) -> Passage {
    let drops = rules.lines().any(|line| line.trim() == "-P FORWARD DROP");
    let lets_us = |line: &str| line.contains(" ru") && line.contains("-j ACCEPT");
    match (drops, rules.lines().any(lets_us)) {
        (false, _) | (true, true) => Passage::Open,
        (true, false) if rules.contains("-j ACCEPT") => Passage::Unsure,
        (true, false) => Passage::Closed,
    }
}

/// A device that a packet comes or goes by.
#[derive(Debug, Clone, Copy)]
enum Device<'a> {
    /// The host's end of the uplink: `ru` and thirteen characters more.
    Uplink,
    /// One of the host's own, if it is known which.
    Host(Option<&'a str>),
}

struct Packet<'a> {
    from: Device<'a>,
    to: Device<'a>,
    /// As connection tracking sees it.
    state: &'static str,
}

/// `None` is: it depends on what is not understood here.
type Truth = Option<bool>;

enum End {
    Accepted,
    Dropped,
    /// At the end of the chain, or told to return.
    Undecided,
}

struct Ruleset<'a>(&'a [Value]);

impl<'a> Ruleset<'a> {
    /// Chains where the filter looks at what the host forwards, but for those of servers like this one.
    fn forward_chains(&self) -> impl Iterator<Item = &'a Value> {
        let chains = self.0.iter().filter_map(|item| item.get("chain"));
        chains.filter(|chain| {
            chain["hook"] == "forward"
                && ["ip", "inet"].contains(&text(&chain["family"]))
                && !text(&chain["table"]).starts_with("remote_dockerd_")
        })
    }

    fn passage(&self, chain: &Value, packet: &Packet<'_>) -> Passage {
        let mut may_be_accepted = false;
        let end = self.follow(chain, &chain["name"], packet, 0, &mut may_be_accepted);
        let accepted = match end {
            End::Accepted => true,
            End::Dropped => false,
            End::Undecided => chain["policy"] != "drop",
        };
        match (accepted, may_be_accepted) {
            (true, _) => Passage::Open,
            (false, true) => Passage::Unsure,
            (false, false) => Passage::Closed,
        }
    }

    /// Follows the packet through the chain of this name beside `base`.
    fn follow(
        &self,
        base: &Value,
        name: &Value,
        packet: &Packet<'_>,
        depth: u8,
        may_be_accepted: &mut bool,
    ) -> End {
        // The kernel refuses deeper jumps.
        const DEEPEST: u8 = 16;
        if depth > DEEPEST {
            *may_be_accepted = true;
            return End::Undecided;
        }
        let rules = self.0.iter().filter_map(|item| item.get("rule"));
        let rules = rules.filter(|rule| {
            rule["family"] == base["family"]
                && rule["table"] == base["table"]
                && rule["chain"] == *name
        });
        for rule in rules {
            let mut applies = Some(true);
            for part in items(rule, "expr") {
                let Some((kind, value)) = part.as_object().and_then(|part| part.iter().next())
                else {
                    continue;
                };
                let end = match kind.as_str() {
                    "match" => {
                        applies = and(applies, packet.is_matched(value));
                        continue;
                    }
                    "counter" | "log" | "mangle" => continue,
                    "accept" => End::Accepted,
                    "drop" | "reject" => End::Dropped,
                    "return" => End::Undecided,
                    "jump" | "goto" => {
                        let mut there = false;
                        let target = &value["target"];
                        let end = match applies {
                            Some(false) => End::Undecided,
                            _ => self.follow(base, target, packet, depth + 1, &mut there),
                        };
                        *may_be_accepted |= there;
                        if applies == Some(true) && kind == "goto" {
                            return end;
                        }
                        if matches!(end, End::Undecided) {
                            continue;
                        }
                        end
                    }
                    // Maps of verdicts, conditions of iptables' own, and what is yet to be invented.
                    "vmap" | "queue" => {
                        *may_be_accepted |= applies != Some(false);
                        continue;
                    }
                    _ => {
                        applies = and(applies, None);
                        continue;
                    }
                };
                match (applies, end) {
                    (Some(true), end) => return end,
                    (None, End::Accepted | End::Undecided) => *may_be_accepted = true,
                    (None, End::Dropped) | (Some(false), _) => {}
                }
            }
        }
        End::Undecided
    }
}

impl Packet<'_> {
    fn is_matched(&self, condition: &Value) -> Truth {
        let (left, right) = (&condition["left"], &condition["right"]);
        let wanted: Vec<&str> = match right {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => items(right, "set")
                .iter()
                .filter_map(Value::as_str)
                .collect(),
        };
        let is_one = |what: &str| wanted.contains(&what);
        let truth = match (text(&left["meta"]["key"]), text(&left["ct"]["key"])) {
            ("iifname" | "iif", _) => self.from.is_any_of(&wanted),
            ("oifname" | "oif", _) => self.to.is_any_of(&wanted),
            ("nfproto", _) => Some(is_one("ipv4")),
            ("l4proto", _) => Some(is_one("tcp")),
            (_, "state") => Some(is_one(self.state)),
            _ => match (
                text(&left["payload"]["protocol"]),
                text(&left["payload"]["field"]),
            ) {
                ("ip", "protocol") => Some(is_one("tcp")),
                ("ip6" | "udp" | "icmp" | "icmpv6" | "arp", _) => Some(false),
                _ => None,
            },
        };
        match text(&condition["op"]) {
            "!=" => truth.map(|truth| !truth),
            "==" | "in" => truth,
            _ => None,
        }
    }
}

impl Device<'_> {
    fn is_any_of(self, names: &[&str]) -> Truth {
        /// As long as Linux allows.
        const LENGTH: usize = 15;
        let is_one = |name: &&str| match (self, name.strip_suffix('*')) {
            (Self::Uplink, Some(prefix)) => {
                Some(prefix.starts_with("ru") || "ru".starts_with(prefix))
            }
            (Self::Uplink, None) => Some(name.starts_with("ru") && name.len() == LENGTH),
            (Self::Host(Some(own)), Some(prefix)) => Some(own.starts_with(prefix)),
            (Self::Host(Some(own)), None) => Some(own == *name),
            (Self::Host(None), _) => None,
        };
        let mut truths = names.iter().map(is_one);
        if truths.clone().any(|truth| truth == Some(true)) {
            Some(true)
        } else if truths.any(|truth| truth.is_none()) {
            None
        } else {
            Some(false)
        }
    }
}

fn and(one: Truth, other: Truth) -> Truth {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
