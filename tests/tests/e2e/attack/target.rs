//! Whom an attacker would like to reach, and whether they were reached.

use std::net::{Ipv4Addr, SocketAddrV4};

use attack_probe::{Attempt, Deed};
use e2e::server::API_PORT;
use remote_docker_api::Egress;
use remote_dockerd::network::GATEWAY;

use super::forge::{End, ICMP, TCP, UDP, ends, says};
use super::place::PORT;
use super::stage::{
    Eyes, HOST, HOST_LAN, METADATA, PATIENCE, PRIVATE, PUBLIC, Party, SILENCE, Stage, millis,
};
use super::witness::Way;

/// Where machines of a lease answer Docker's clients.
pub(super) const AGENT_PORT: u16 = 2376;
/// To all hosts on a wire: by RFC 1112 each of them listens.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const NEVER: &[Egress] = &[];
const BY_OPEN: &[Egress] = &[Egress::Open];
const BY_BOTH: &[Egress] = &[Egress::Internet, Egress::Open];

/// Somebody to be reached.
pub(super) struct Target {
    pub(super) name: String,
    end: End,
    /// The policies under which they are reached.
    under: &'static [Egress],
}

impl Target {
    pub(super) fn is_reached_under(&self, egress: Egress) -> bool {
        self.under.contains(&egress)
    }

    /// The attempt to reach them with these words.
    pub(super) fn attempt(&self, word: &str, is_reached: bool) -> Attempt {
        let End {
            protocol,
            address,
            port,
        } = self.end;
        let (to, say) = (SocketAddrV4::new(address, port), word.to_owned());
        let deed = match protocol {
            TCP => Deed::Tcp { to, say },
            UDP => Deed::Udp { to, say },
            _ => Deed::Ping { to: address, say },
        };
        // Not everybody who hears a datagram answers.
        let patience = if is_reached && protocol != UDP {
            PATIENCE
        } else {
            SILENCE
        };
        Attempt {
            name: self.name.clone(),
            deed,
            patience_ms: millis(patience),
        }
    }

    /// Whether the attempt came out of the attacker's machine.
    pub(super) fn was_tried(&self, eyes: &Eyes) -> bool {
        let is_to = |bytes: &[u8]| ends(bytes).is_some_and(|(_, to)| to == self.end);
        eyes.attacker
            .saw(|frame| frame.way == Way::In && is_to(&frame.bytes))
    }

    /// Where the attempt arrived, if it did.
    pub(super) fn reached(
        &self,
        stage: &Stage,
        eyes: &Eyes,
        attacker: &Party,
        word: &str,
    ) -> Option<&'static str> {
        let from_attacker = |bytes: &[u8]| {
            ends(bytes).is_some_and(|(from, to)| to == self.end && from.address == attacker.address)
        };
        let to_it = |bytes: &[u8]| ends(bytes).is_some_and(|(_, to)| to == self.end);
        let from_it = |bytes: &[u8]| ends(bytes).is_some_and(|(from, _)| from == self.end);
        if let Some(place) = stage.heard(word) {
            return Some(place);
        }
        let outside = |bytes: &[u8]| to_it(bytes) || says(bytes, word);
        if eyes
            .outside
            .saw(|frame| frame.way == Way::In && outside(&frame.bytes))
        {
            return Some("outside");
        }
        let at_victim = |bytes: &[u8]| from_attacker(bytes) || says(bytes, word);
        if eyes
            .victim
            .saw(|frame| frame.way == Way::Out && at_victim(&frame.bytes))
        {
            return Some("on the victim's wire");
        }
        // Whatever the answer is: also a refusal comes from somebody who was reached.
        let answered = eyes
            .attacker
            .saw(|frame| frame.way == Way::Out && from_it(&frame.bytes));
        answered.then_some("where it was answered")
    }
}

/// Everybody.
pub(super) fn all(stage: &Stage) -> Vec<Target> {
    let mut list = Vec::new();
    let mut add = |who: &str, protocol, address: Ipv4Addr, port, under| {
        let name = match protocol {
            ICMP => format!("{who}: ping {address}"),
            TCP => format!("{who}: TCP {address}:{port}"),
            _ => format!("{who}: UDP {address}:{port}"),
        };
        let end = End {
            protocol,
            address,
            port,
        };
        list.push(Target { name, end, under });
    };
    let mut in_every_way = |who: &str, address, under| {
        add(who, TCP, address, PORT, under);
        add(who, UDP, address, PORT, under);
        add(who, ICMP, address, 0, under);
    };
    in_every_way("the Internet", PUBLIC, BY_BOTH);
    for address in PRIVATE {
        in_every_way("a private network", address, BY_OPEN);
    }
    for address in METADATA {
        in_every_way("a cloud's metadata", address, NEVER);
    }
    let [host_end, inner_end] = stage.uplink_ends;
    for address in [HOST, HOST_LAN, host_end] {
        in_every_way("the host", address, NEVER);
    }
    for address in [GATEWAY, inner_end] {
        in_every_way("the machines' namespace", address, NEVER);
    }
    in_every_way("the other machine", stage.victim.address, NEVER);
    add(
        "the other machine's daemon",
        TCP,
        stage.victim.address,
        AGENT_PORT,
        NEVER,
    );
    for address in [HOST, HOST_LAN, host_end] {
        add("the API", TCP, address, API_PORT, NEVER);
        let port = relay_port(&stage.victim);
        add("the other lease's port", TCP, address, port, NEVER);
    }
    for address in [ALL_HOSTS, Ipv4Addr::BROADCAST] {
        add("everybody on the wire", UDP, address, PORT, NEVER);
    }
    list
}

/// The port of a lease at the relay.
pub(super) fn relay_port(party: &Party) -> u16 {
    let endpoint = party.machine.endpoint();
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}
