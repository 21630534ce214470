//! The packet filter's rules as text for `nft -f`. Pure: snapshot-tested here, tried out with real
//! packets in `tests`.
//!
//! Each text replaces our own tables as a whole in one transaction of the kernel: there is no moment
//! without a filter, and what an earlier version of the server left is gone.
//!
//! What a VM may reach is not in the rules. Its wire is in a *group*, which the kernel keeps with the device,
//! and the rules tell by a map of verdicts what each group may. So a lease's policy is one change of one
//! device, a new wire reaches nothing, and rules that are loaded again find every wire as it was.

use std::net::{Ipv4Addr, SocketAddrV4};

use remote_docker_api::Egress;

use super::{GATEWAY, GUEST_MAC};
use crate::config::{AllowRule, MachineLimits};

/// Name of the table in the VMs' namespace, which is ours alone.
pub(super) const TABLE: &str = "remote_dockerd";
/// Name of the table there that hides guests.
pub(super) const HIDE: &str = "remote_dockerd_hide";
/// Name of the uplink's end in the VMs' namespace.
pub(super) const UPLINK: &str = "uplink";
/// What marks packets of guests that may reach private networks.
const OPEN_MARK: u32 = 1;

/// IPv4 addresses that are not on the public Internet, from IANA's registry of special-purpose
/// addresses (RFC 6890 and its updates); 224.0.0.0/3 is multicast, reserved and broadcast. The last
/// is public by its number only: on Azure it is the host's own service.
pub(crate) const NOT_PUBLIC: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "168.63.129.16/32",
];

/// IPv4 addresses that no guest reaches under any policy: what means the sender itself, link-local
/// addresses (most clouds' metadata services among them), multicast, reserved and broadcast; and the
/// metadata services of Azure, Alibaba and Oracle, which have addresses of their own.
pub(crate) const NEVER: [&str; 7] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "168.63.129.16/32",
    "100.100.100.200/32",
    "192.0.0.192/32",
];

/// The group of a wire under this policy. 0 is the one that every device is born in.
pub(super) const fn group(egress: Egress) -> u32 {
    match egress {
        Egress::None => 0,
        Egress::Internet => 1,
        Egress::Open => 2,
    }
}

/// What the rules of the VMs' namespace are about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Inside<'a> {
    /// Whether there is a way out.
    pub(super) uplink: bool,
    /// Name servers that guests may ask, wherever they are.
    pub(super) resolvers: &'a [Ipv4Addr],
    /// What the site allows besides public addresses.
    pub(super) allow: &'a [AllowRule],
    /// Addresses and TCP ports of the host that guests reach.
    pub(super) on_host: &'a [SocketAddrV4],
    /// How much each guest may take.
    pub(super) limits: MachineLimits,
}

/// Rules of the VMs' namespace.
///
/// - A packet from a wire must have the address that is routed to that wire, and the hardware address of
///   guests. This is checked before connection tracking sees it, so that one guest cannot disturb the tracked
///   connections of another.
/// - What a guest says by ICMP of a connection is dropped: the kernel takes it for a part of that connection without
///   asking whose it is, so one guest could tell the servers of another, or ours, that it is gone. Nobody needs to hear
///   that from a guest: its ports that are closed say so by TCP itself.
/// - Of ARP a guest gets the one answer that it needs, where the gateway is, as often as a wire may ask. Nothing that it says by ARP is
///   learned: what the namespace knows of guests was entered for good.
/// - A guest sends only so many packets, and has only so many connections: counted by its address, which it
///   cannot change. Only the first packet of a connection counts as a new one, and what is not forwarded is not
///   followed.
/// - There is no IPv6.
/// - Nothing in the namespace answers a guest, except to what this server itself has opened.
/// - Guests reach no other guest: nothing is forwarded between wires.
/// - Guests reach through the uplink what the group of their wire may; every packet is asked for that, those
///   of connections that stand as well, so that a machine finds no way in what another left in the tracking of
///   connections under the same address.
pub(super) fn namespace(inside: Inside<'_>) -> String {
    let (ways, chains) = if inside.uplink {
        (ways(), chains(inside))
    } else {
        Default::default()
    };
    let mac = mac(GUEST_MAC);
    let packets = inside.limits.packets_per_s;
    let guests = "type ipv4_addr; size 65536; flags dynamic";
    format!(
        r#"table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    set packets {{ {guests}; timeout 1m; }}
    chain own_address {{
        type filter hook prerouting priority raw; policy accept;
        iifname "rd*" meta nfproto != ipv4 drop
        iifname "rd*" ether saddr != {mac} drop
        iifname "rd*" fib saddr . iif oif missing drop
        iifname "rd*" update @packets {{ ip saddr limit rate over {packets}/second burst {packets} packets }} drop
    }}
    chain about_others {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "rd*" ct state related drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname "rd*" meta nfproto != ipv4 drop
    }}
{chains}    chain forward {{
        type filter hook forward priority filter; policy drop;
{ways}    }}
}}
table arp {TABLE}
delete table arp {TABLE}
table arp {TABLE} {{
    set askers {{ type iface_index; size 65536; flags dynamic; timeout 1m; }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "rd*" update @askers {{ iif limit rate over 100/second burst 100 packets }} drop
        iifname "rd*" arp operation request arp saddr ether {mac} arp daddr ip {GATEWAY} accept
        iifname "rd*" drop
    }}
}}
"#
    )
}

/// Out, and back for what was asked for, by the group of the wire.
fn ways() -> String {
    let (internet, open) = (group(Egress::Internet), group(Egress::Open));
    let map = format!("vmap {{ {internet} : jump internet, {open} : jump open }}");
    format!(
        "        iifname \"rd*\" oifname \"{UPLINK}\" iifgroup {map}\n        \
         iifname \"{UPLINK}\" oifname \"rd*\" ct state established,related oifgroup {map}\n"
    )
}

fn chains(inside: Inside<'_>) -> String {
    let not_public = NOT_PUBLIC.join(", ");
    let never = NEVER.join(", ");
    let resolve = to_resolvers("", inside.resolvers);
    let allowed = allowed("", inside.allow);
    let on_host = to_host("", inside.on_host);
    let MachineLimits {
        connections,
        new_per_s,
        new_burst,
        ..
    } = inside.limits;
    let guests = "type ipv4_addr; size 65536; flags dynamic";
    let first = "ct state new ct status & confirmed == 0";
    format!(
        r#"    set newcomers {{ {guests}; timeout 1m; }}
    set connections {{ {guests}; }}
    chain limits {{
        type filter hook forward priority filter + 10; policy accept;
        iifname "rd*" {first} update @newcomers {{ ip saddr limit rate over {new_per_s}/second burst {new_burst} packets }} drop
        iifname "rd*" {first} add @connections {{ ip saddr ct count over {connections} }} drop
    }}
    chain internet {{
        iifname "{UPLINK}" accept
{resolve}{on_host}{allowed}        ip daddr {{ {not_public} }} drop
        meta nfproto ipv4 accept
    }}
    chain open {{
        iifname "{UPLINK}" accept
        meta mark set {OPEN_MARK}
{resolve}{on_host}        ip daddr {{ {never} }} drop
        meta nfproto ipv4 accept
    }}
"#
    )
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// Hides guests behind the uplink's own address, and those that may reach private networks behind `open`, so
/// that the host can tell the two apart.
pub(super) fn hide(open: Ipv4Addr) -> String {
    format!(
        r#"table ip {HIDE}
delete table ip {HIDE}
table ip {HIDE} {{
    chain hide {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{UPLINK}" meta mark {OPEN_MARK} snat to {open}
        oifname "{UPLINK}" masquerade
    }}
}}
"#
    )
}

/// What the host's rules are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    /// Name of the table.
    pub(super) table: &'a str,
    /// The uplink's end.
    pub(super) device: &'a str,
    /// The address from which everything comes from its far end,
    pub(super) inner: Ipv4Addr,
    /// but for what may reach private networks, which comes from this one.
    pub(super) open: Ipv4Addr,
    /// Name servers that guests may ask, wherever they are.
    pub(super) resolvers: &'a [Ipv4Addr],
    /// What the site allows besides public addresses.
    pub(super) allow: &'a [AllowRule],
    /// Addresses and TCP ports of this host that guests reach.
    pub(super) on_host: &'a [SocketAddrV4],
}

/// Rules of the host's own namespace. They say nothing about any other traffic of the host.
///
/// - Guests do not reach the host itself, whatever its addresses are, but for a resolver on it and what the
///   site has there for them.
/// - Nor do they reach what the host forwards to: a port of the host that its own rules, or those of
///   Docker or libvirt on it, send on to a container or a VM looks like a public address to the VMs'
///   namespace, and is a private one only here, after the translation.
///   A resolver that the host forwards to is one all the same.
/// - Nobody reaches the VMs' namespace from outside.
/// - Packets fit the way out: hosts in clouds often have a smaller MTU than 1500.
pub(super) fn host(host: Host<'_>) -> String {
    let Host {
        table,
        device,
        inner,
        open,
        ..
    } = host;
    let from_guests = format!("iifname \"{device}\" ");
    let resolve = to_resolvers(&from_guests, host.resolvers);
    let on_host = to_host(&from_guests, host.on_host);
    // By the address that the guest has asked for, not the one that the host has made of it.
    let asked_for = ("ct original ip daddr", "ct original proto-dst");
    let forwarded = to_resolvers_by(asked_for, &from_guests, host.resolvers);
    let allowed = allowed(&from_guests, host.allow);
    let (not_public, never) = (NOT_PUBLIC.join(", "), NEVER.join(", "));
    format!(
        r#"table inet {table}
delete table inet {table}
table inet {table} {{
    chain input {{
        type filter hook input priority filter; policy accept;
{resolve}{on_host}        iifname "{device}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{device}" meta nfproto != ipv4 drop
        iifname "{device}" ip saddr != {{ {inner}, {open} }} drop
        iifname "{device}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
{forwarded}        iifname "{device}" ct status dnat drop
{allowed}        iifname "{device}" ip saddr {open} ip daddr {{ {never} }} drop
        iifname "{device}" ip saddr {inner} ip daddr {{ {not_public} }} drop
        iifname "{device}" accept
        oifname "{device}" ct state established,related accept
        oifname "{device}" drop
    }}
    chain hide {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {{ {inner}, {open} }} oifname != "{device}" masquerade
    }}
}}
"#
    )
}

/// Takes a table away; also right when it is not there.
pub(super) fn without(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

fn to_resolvers(condition: &str, resolvers: &[Ipv4Addr]) -> String {
    to_resolvers_by(("ip daddr", "th dport"), condition, resolvers)
}

fn to_resolvers_by(
    (address, port): (&str, &str),
    condition: &str,
    resolvers: &[Ipv4Addr],
) -> String {
    if resolvers.is_empty() {
        return String::new();
    }
    let list: Vec<_> = resolvers.iter().map(Ipv4Addr::to_string).collect();
    let list = list.join(", ");
    format!(
        "        {condition}{address} {{ {list} }} meta l4proto {{ tcp, udp }} {port} 53 accept\n"
    )
}

fn to_host(condition: &str, places: &[SocketAddrV4]) -> String {
    let line = |place: &SocketAddrV4| {
        format!(
            "        {condition}ip daddr {} tcp dport {} accept\n",
            place.ip(),
            place.port()
        )
    };
    places.iter().map(line).collect()
}

fn allowed(condition: &str, allow: &[AllowRule]) -> String {
    let line = |rule: &AllowRule| {
        let protocols: Vec<_> = rule.protocols().iter().map(ToString::to_string).collect();
        let mut line = format!(
            "        {condition}ip daddr {} meta l4proto {{ {} }} ",
            rule.cidr,
            protocols.join(", ")
        );
        if !rule.ports.is_empty() {
            let ports: Vec<_> = rule.ports.iter().map(ToString::to_string).collect();
            line += &format!("th dport {{ {} }} ", ports.join(", "));
        }
        line + "accept\n"
    };
    allow.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow() -> Vec<AllowRule> {
        #[derive(serde::Deserialize)]
        struct File {
            allow: Vec<AllowRule>,
        }
        let text = r#"allow = [
            { cidr = "10.1.2.0/24", ports = [443, "8000-8999"], protocol = "tcp" },
            { cidr = "10.1.3.4/32" },
        ]"#;
        toml::from_str::<File>(text).unwrap().allow
    }

    fn on_host() -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 10), 5000)
    }

    #[test]
    fn the_namespace_with_an_uplink() {
        insta::assert_snapshot!(namespace(Inside {
            uplink: true,
            resolvers: &[Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(9, 9, 9, 9)],
            allow: &allow(),
            on_host: &[on_host()],
            ..Inside::default()
        }));
    }

    #[test]
    fn the_namespace_without_an_uplink_lets_nothing_out() {
        insta::assert_snapshot!(namespace(Inside {
            resolvers: &[Ipv4Addr::new(10, 0, 0, 2)],
            ..Inside::default()
        }));
    }

    #[test]
    fn the_way_out_hides_guests() {
        insta::assert_snapshot!(hide(Ipv4Addr::new(169, 254, 241, 1)));
    }

    #[test]
    fn the_host() {
        insta::assert_snapshot!(host(Host {
            table: "remote_dockerd_0000000000001",
            device: "ru0000000000001",
            inner: Ipv4Addr::new(169, 254, 240, 1),
            open: Ipv4Addr::new(169, 254, 241, 1),
            resolvers: &[Ipv4Addr::new(10, 0, 0, 2)],
            allow: &allow(),
            on_host: &[on_host()],
        }));
    }

    #[test]
    fn what_is_never_reached_is_not_public() {
        // 100.100.100.200 and 192.0.0.192 are in ranges that are listed; the others stand in both.
        for range in &NEVER[..5] {
            assert!(NOT_PUBLIC.contains(range), "{range}");
        }
    }
}
