//! What is kept of a session between two connections: nothing, as docker's clients ask for nothing.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
};

use crate::listener_tests::{Ca, HOST};
use crate::{keys, tls};

/// How the second of two connections of one client began, which would go on with the first one's session.
fn second_handshake(version: &'static SupportedProtocolVersion) -> HandshakeKind {
    let ca = Ca::new("ca of this guest");
    let identity = keys::tls_identity(HOST).unwrap();
    let certificate = ca.sign(&identity.csr_pem);
    let server = tls::server_configs(&certificate, &ca.pem, identity.key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let (own, key) = ca.client();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)
        .unwrap();
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    let connect = || {
        let name = ServerName::try_from(HOST).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client), name)
            .unwrap()
            .into();
        let mut server = ServerConnection::new(server.for_docker()).unwrap().into();
        talk(&mut client, &mut server);
        client.handshake_kind().unwrap()
    };
    connect();
    connect()
}

/// Until neither has anything more to say.
fn talk(one: &mut Connection, other: &mut Connection) {
    while one.wants_write() || other.wants_write() {
        say(one, other);
        say(other, one);
    }
}

fn say(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}

#[test]
fn each_connection_shows_its_certificate() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        assert_eq!(
            second_handshake(version),
            HandshakeKind::Full,
            "{version:?}"
        );
    }
}
