//! Looks at the network.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::AccessFlags;
use tokio::net::TcpSocket;
use tokio::process::Command;

use super::super::facts::{Filters, Forwarding, Look, Network, Ports};
use super::kernel;
use crate::config::Config;
use crate::network::{self, NetworkError, Trial};
use crate::words::in_one_line;

/// A packet filter with a hundred thousand addresses takes about a second to print.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes a network like that of VMs where nobody sees it.
pub(super) async fn trial(config: &Config, is_root: bool) -> Look<Trial> {
    if !is_root {
        return Look::TakesRoot;
    }
    match network::try_out(config.network.guest_network.base()).await {
        Ok(trial) => Look::Seen(trial),
        Err(error) => Look::Failed(in_one_line(&error)),
    }
}

/// What came of it, in words.
pub(super) fn outcome(trial: &Trial) -> Network {
    let part = |part: &Result<(), NetworkError>| part.as_ref().copied().map_err(|e| in_one_line(e));
    Network {
        inside: part(&trial.inside),
        wire: part(&trial.wire),
        uplink: part(&trial.uplink),
    }
}

pub(super) async fn filters(is_root: bool) -> Filters {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let way_out = kernel::way_out(&routes);
    if !is_root {
        return Filters {
            nftables: Look::TakesRoot,
            legacy: Look::TakesRoot,
            way_out,
        };
    }
    let (nftables, legacy) = tokio::join!(nftables(), legacy());
    Filters {
        nftables: nftables.map_or_else(Look::Failed, Look::Seen),
        legacy: legacy.map_or_else(Look::Failed, Look::Seen),
        way_out,
    }
}

async fn nftables() -> Result<serde_json::Value, String> {
    let printed = output("nft", &["--json", "list", "ruleset"]).await?;
    serde_json::from_str(&printed).map_err(|error| format!("`nft` printed no JSON: {error}"))
}

/// Asking iptables-legacy makes its tables, so it is asked only where they are.
async fn legacy() -> Result<Option<String>, String> {
    let tables = match std::fs::read_to_string("/proc/net/ip_tables_names") {
        Ok(tables) => tables,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("/proc/net/ip_tables_names: {error}")),
    };
    if !tables.lines().any(|table| table == "filter") {
        return Ok(None);
    }
    let rules = output("iptables-legacy", &["-S", "FORWARD"]).await?;
    Ok(Some(rules))
}

/// What a program of the system's administrator prints.
async fn output(program: &str, args: &[&str]) -> Result<String, String> {
    // Some users' PATH leaves `sbin` out.
    for program in [program, &format!("/usr/sbin/{program}")] {
        let run = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let printed = match tokio::time::timeout(LIMIT, run).await {
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => continue,
            Ok(Err(error)) => return Err(format!("cannot run `{program}`: {error}")),
            Ok(Ok(printed)) => printed,
            Err(_) => return Err(format!("`{program}` takes more than {} s", LIMIT.as_secs())),
        };
        if printed.status.success() {
            return Ok(String::from_utf8_lossy(&printed.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&printed.stderr);
        let said: String = said.trim().chars().take(500).collect();
        return Err(format!("`{program}` failed ({}): {said}", printed.status));
    }
    Err(format!("the program `{program}` is not installed"))
}

pub(super) fn forwarding(is_root: bool) -> Forwarding {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    Forwarding {
        is_on: std::fs::read_to_string(PATH).is_ok_and(|text| text.trim() == "1"),
        // Another user than the server's cannot tell.
        is_changeable: !is_root || nix::unistd::access(PATH, AccessFlags::W_OK).is_ok(),
    }
}

pub(super) fn ports(config: &Config) -> Ports {
    let listen = config.http.listen;
    let range = config.relay.ports.as_range();
    let ip = config.relay.listen_ip;
    let mut faults = range
        .clone()
        .filter_map(|port| claim((ip, port).into()).err());
    let taken = faults.next().map(|first| (faults.count() + 1, first));
    Ports {
        api: (listen.to_string(), claim(listen).err()),
        relay: format!("{ip}:{}-{}", range.start(), range.end()),
        count: range.count(),
        taken,
    }
}

/// Takes a port for a moment, without listening on it.
fn claim(address: SocketAddr) -> Result<(), String> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let claimed = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    });
    claimed.map_err(|error| format!("port {}: {error}", address.port()))
}
