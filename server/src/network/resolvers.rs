//! The name servers that this host uses, for guests to use too.

use std::fs;
use std::net::Ipv4Addr;

/// The second is where systemd-resolved tells the real ones, when the first names its own stub on
/// loopback, which guests cannot reach.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Addresses of the host's name servers that a guest can reach over IPv4, best first. Empty, with a
/// warning in the log, when there are none.
#[must_use]
pub fn host_resolvers() -> Vec<Ipv4Addr> {
    let found = FILES
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| parse(&text))
        .find(|list| !list.is_empty());
    found.unwrap_or_else(|| {
        tracing::warn!(
            "no IPv4 name server that is not on loopback in {} or {}: guests will not resolve names; \
             name some in the configuration",
            FILES[0],
            FILES[1]
        );
        Vec::new()
    })
}

/// The usable IPv4 addresses in the text of a `resolv.conf`, each once, in its order.
fn parse(text: &str) -> Vec<Ipv4Addr> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address: Option<Ipv4Addr> = words.next().and_then(|word| word.parse().ok());
        // 0.0.0.0 means this host, as loopback does.
        let usable = address.filter(|address| !address.is_loopback() && !address.is_unspecified());
        list.extend(usable.filter(|address| !list.contains(address)));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_a_guest_cannot_reach_is_left_out() {
        let text = "# nameserver 1.1.1.1\n;nameserver 1.1.1.2\nsearch example.org\n\
                    nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\n\
                    nameserver\t10.0.0.2 trailing words\nnameserver fe80::1%eth0\n\
                    nameserver 10.0.0.2\n  nameserver 9.9.9.9\nnameserver\nnameserver 1.2.3\n\
                    nameservers 8.8.8.8\noptions edns0";
        let list: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(list, ["10.0.0.2", "9.9.9.9"]);
        assert!(parse("").is_empty());
    }
}
