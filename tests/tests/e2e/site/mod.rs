//! Settings of the site, on real machines: mirrors, authorities, proxies, and what containers get.

mod authorities;
mod credentials;
pub(crate) mod mirrors;
mod template;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use e2e::process::{run, said, text};
use e2e::site::{Authority, HOST, LAN, PUBLIC};
use e2e::{Builder, Machine, TestServer};
use serde_json::json;

/// Docker Hub, as the site's name server knows it.
const HUB: &str = "registry-1.docker.io";
/// A registry of the site.
const PRIVATE: &str = "registry.lan";

const NAMES: [(&str, Ipv4Addr); 2] = [(HUB, PUBLIC), (PRIVATE, LAN)];

const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A server whose machines find the site's names, and reach its registry.
fn builder() -> Builder {
    at_the_site(TestServer::builder())
}

/// The same with whatever else it was told.
pub(crate) fn at_the_site(builder: Builder) -> Builder {
    builder
        .set("network.uplink", "veth")
        .set("network.nameservers", vec![HOST.to_string()])
        .set(
            "network.allow",
            json!([{ "cidr": format!("{LAN}/32"), "ports": [3128, 5000], "protocol": "tcp" }]),
        )
}

/// An entry of `site.ca`.
fn trusted(authority: &Authority, registries: &[&str]) -> serde_json::Value {
    json!({ "file": authority.file(), "registries": registries })
}

/// A folder with this Dockerfile and nothing else but these files.
fn context(server: &TestServer, name: &str, dockerfile: &str) -> PathBuf {
    let folder = server.root().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    folder
}

/// Builds by BuildKit; answers what it said.
fn build(machine: &Machine, context: &std::path::Path, options: &[&str]) -> String {
    let mut command = machine
        .docker()
        .command(["buildx", "build", "--progress=plain"]);
    let output = run(command.args(options).arg(context));
    assert!(output.status.success(), "{}", said(&output));
    text(&output.stderr)
}
