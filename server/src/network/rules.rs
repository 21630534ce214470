//! The packet filter's rules as text for `nft -f`. Pure: snapshot-tested here, tried out with real
//! packets in `tests`.
//!
//! Each text replaces our own table as a whole in one transaction of the kernel: there is no moment
//! without a filter, and what an earlier version of the server left is gone.

use std::net::Ipv4Addr;

/// Name of the table in the VMs' namespace, which is ours alone.
pub(super) const TABLE: &str = "remote_dockerd";
/// Name of the uplink's end in the VMs' namespace.
pub(super) const UPLINK: &str = "uplink";

/// IPv4 addresses that are not on the public Internet, from IANA's registry of special-purpose
/// addresses (RFC 6890 and its updates); 224.0.0.0/3 is multicast, reserved and broadcast. The last
/// is public by its number only: on Azure it is the host's own service.
const NOT_PUBLIC: [&str; 15] = [
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

/// Rules of the VMs' namespace.
///
/// - A packet from a wire must have the address that is routed to that wire. This is checked before
///   connection tracking sees it, so that one guest cannot disturb the tracked connections of another.
/// - Nothing in the namespace answers a guest, except to what this server itself has opened.
/// - Guests reach no other guest: nothing is forwarded between wires.
/// - Guests reach public addresses through the uplink, and the resolvers' port 53 wherever they are.
pub(super) fn namespace(uplink: bool, resolvers: &[Ipv4Addr]) -> String {
    let egress = if uplink {
        egress(resolvers)
    } else {
        String::new()
    };
    format!(
        r#"table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    chain own_address {{
        type filter hook prerouting priority raw; policy accept;
        iifname "rd*" fib saddr . iif oif missing drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "rd*" oifname "{UPLINK}" jump egress
    }}
    chain egress {{
{egress}    }}
    chain hide {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{UPLINK}" masquerade
    }}
}}
"#
    )
}

fn egress(resolvers: &[Ipv4Addr]) -> String {
    let not_public = NOT_PUBLIC.join(", ");
    let resolve = to_resolvers("", resolvers);
    format!("{resolve}        ip daddr {{ {not_public} }} drop\n        meta nfproto ipv4 accept\n")
}

/// Rules of the host's own namespace for the uplink `device`, at whose far end everything comes from
/// `inner`. They say nothing about any other traffic of the host.
///
/// - Guests do not reach the host itself, whatever its addresses are, but for a resolver on it.
/// - Nor do they reach what the host forwards to: a port of the host that its own rules, or those of
///   Docker or libvirt on it, send on to a container or a VM looks like a public address to the VMs'
///   namespace, and is a private one only here, after the translation.
///   A resolver that the host forwards to is one all the same.
/// - Nobody reaches the VMs' namespace from outside.
/// - Packets fit the way out: hosts in clouds often have a smaller MTU than 1500.
pub(super) fn host(table: &str, device: &str, inner: Ipv4Addr, resolvers: &[Ipv4Addr]) -> String {
    let from_guests = format!("iifname \"{device}\" ");
    let resolve = to_resolvers(&from_guests, resolvers);
    // By the address that the guest has asked for, not the one that the host has made of it.
    let asked_for = ("ct original ip daddr", "ct original proto-dst");
    let forwarded = to_resolvers_by(asked_for, &from_guests, resolvers);
    let not_public = NOT_PUBLIC.join(", ");
    format!(
        r#"table inet {table}
delete table inet {table}
table inet {table} {{
    chain input {{
        type filter hook input priority filter; policy accept;
{resolve}        iifname "{device}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{device}" ip saddr != {inner} drop
        iifname "{device}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
{forwarded}        iifname "{device}" ct status dnat drop
        iifname "{device}" ip daddr {{ {not_public} }} drop
        iifname "{device}" accept
        oifname "{device}" ct state established,related accept
        oifname "{device}" drop
    }}
    chain hide {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {inner} oifname != "{device}" masquerade
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_with_an_uplink() {
        insta::assert_snapshot!(namespace(
            true,
            &[Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(9, 9, 9, 9)]
        ));
    }

    #[test]
    fn the_namespace_without_an_uplink_lets_nothing_out() {
        insta::assert_snapshot!(namespace(false, &[Ipv4Addr::new(10, 0, 0, 2)]));
    }

    #[test]
    fn the_host() {
        insta::assert_snapshot!(host(
            "remote_dockerd_0000000000001",
            "ru0000000000001",
            Ipv4Addr::new(169, 254, 240, 1),
            &[Ipv4Addr::new(10, 0, 0, 2)]
        ));
    }
}
