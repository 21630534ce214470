//! TLS to the server: whom the program believes, and what it says when it does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use insta::assert_snapshot;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::fake::{Fake, Reply, problem};
use crate::sandbox::Sandbox;

/// An authority, and a server with a certificate of it.
struct Secure {
    ca_pem: String,
    url: String,
}

/// A year in which a certificate for the test ends.
const VALID: i32 = 2999;

impl Secure {
    /// A server for this name whose certificate ends in this year.
    fn new(name: &str, ends: i32) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(rcgen::DnType::CommonName, format!("authority of {url}"));
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        leaf.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(leaf.der().to_vec())],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let config = Arc::new(config);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let session = ServerConnection::new(config.clone()).unwrap();
                let stream = StreamOwned::new(session, stream.unwrap());
                thread::spawn(move || answer(stream));
            }
        });
        Self { ca_pem, url }
    }

    fn sandbox(&self) -> Sandbox {
        let sandbox = Sandbox::at(&self.url);
        std::fs::write(sandbox.path("ca.pem"), &self.ca_pem).unwrap();
        // This system's authorities are the test's own choice: these, and no other.
        std::fs::write(sandbox.path("system.pem"), &self.ca_pem).unwrap();
        sandbox
    }
}

/// Says that there is no lease, if the client goes as far as asking.
fn answer(stream: impl Read + Write) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        if line.ends_with("\r\n\r\n") {
            let body = r#"{"leases":[]}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = reader.get_mut().write_all(text.as_bytes());
            return;
        }
    }
}

#[test]
fn the_authority_may_come_as_a_file_a_text_or_with_the_system() {
    let server = Secure::new("127.0.0.1", VALID);
    let sandbox = server.sandbox();
    let mut by_flag = sandbox.program("list --ca ca.pem --format json");
    let mut by_path = sandbox.program("list --format json");
    by_path.env("REMOTE_DOCKER_CA", "ca.pem");
    let mut by_text = sandbox.program("list --format json");
    by_text.env("REMOTE_DOCKER_CA", &server.ca_pem);
    let mut by_system = sandbox.program("list --format json");
    by_system.env("SSL_CERT_FILE", sandbox.path("system.pem"));
    for command in [&mut by_flag, &mut by_path, &mut by_text, &mut by_system] {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"{\"leases\":[]}\n", "{output:?}");
    }
    let config = sandbox.path("config/setup-remote-docker/config.toml");
    std::fs::write(&config, "ca = 'ca.pem'").unwrap();
    let output = sandbox.program("list").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_server_that_is_not_the_one_is_told_with_what_to_do() {
    let server = Secure::new("127.0.0.1", VALID);
    let other = Secure::new("127.0.0.1", VALID);
    let sandbox = server.sandbox();
    std::fs::write(sandbox.path("other.pem"), &other.ca_pem).unwrap();
    let mut all = "another authority was given\n".to_owned();
    // The system's own count no more once one is given.
    let mut pinned = sandbox.program("list --ca other.pem");
    all += &sandbox.show(pinned.env("SSL_CERT_FILE", sandbox.path("system.pem")));
    all += "\nthe system does not know it\n";
    let mut unknown = sandbox.program("list");
    all += &sandbox.show(unknown.env("SSL_CERT_FILE", sandbox.path("other.pem")));
    all += "\nthe system knows nobody\n";
    let mut nobody = sandbox.program("list");
    nobody.env("SSL_CERT_FILE", sandbox.path("none.pem"));
    all += &sandbox.show(nobody.env("SSL_CERT_DIR", sandbox.path("none")));
    all += "\nit is called otherwise\n";
    let elsewhere = Secure::new("build.example", VALID);
    let sandbox = elsewhere.sandbox();
    all += &sandbox.show(&mut sandbox.program("list --ca ca.pem"));
    all += "\nit is over\n";
    let over = Secure::new("127.0.0.1", 2001);
    let sandbox = over.sandbox();
    all += &without_times(&sandbox.show(&mut sandbox.program("list --ca ca.pem")));
    assert_snapshot!(all);
}

/// What the library tells about the present differs from run to run.
fn without_times(text: &str) -> String {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).count();
    let lines = text
        .lines()
        .map(|line| match line.split_once("verification time ") {
            Some((begin, rest)) if digits(rest) > 0 => format!("{begin}verification time …\n"),
            _ => format!("{line}\n"),
        });
    lines.collect()
}

#[test]
fn http_where_https_is_spoken_and_the_reverse_are_told() {
    let ca = Secure::new("127.0.0.1", VALID).ca_pem;
    // One that says in HTTP that it does not understand, and one that hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let polite = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let plain = Fake::start();
    let mut all = String::new();
    for url in [polite, plain.url.replace("http:", "https:")] {
        let sandbox = Sandbox::at(&url);
        all += &sandbox.show(sandbox.program("list").env("REMOTE_DOCKER_CA", &ca));
    }
    assert!(plain.calls().is_empty());
    let secure = Fake::on("GET", |_| {
        Reply::Problem(problem(
            400,
            "tls_required",
            "this server speaks TLS here, and the request came as plain HTTP",
        ))
    });
    let sandbox = Sandbox::new(&secure);
    all += &sandbox.show(&mut sandbox.program("list"));
    assert_snapshot!(all);
}

#[test]
fn what_holds_no_authority_is_refused() {
    let server = Secure::new("127.0.0.1", VALID);
    let sandbox = server.sandbox();
    std::fs::write(sandbox.path("empty.pem"), "").unwrap();
    let mut all = sandbox.show(&mut sandbox.program("list --ca none.pem"));
    all += &sandbox.show(&mut sandbox.program("list --ca empty.pem"));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    all += &sandbox.show(sandbox.program("list").env("REMOTE_DOCKER_CA", broken));
    assert_snapshot!(all);
}

#[test]
fn a_token_does_not_go_over_an_open_line_unless_told_so() {
    let server = Fake::start();
    // An address that is not one of loopback, and yet leads nowhere else.
    let url = server.url.replace("127.0.0.1", "0.0.0.0");
    let sandbox = Sandbox::at(&url);
    let mut all = sandbox.show(&mut sandbox.program("list"));
    let mut other = sandbox.program("list");
    all += &sandbox.show(other.env("REMOTE_DOCKER_ALLOW_PLAINTEXT", "yes"));
    assert!(server.calls().is_empty());
    let mut allowed = sandbox.program("list");
    all += &sandbox.show(allowed.env("REMOTE_DOCKER_ALLOW_PLAINTEXT", "1"));
    assert_eq!(server.calls(), ["GET /v1/leases"]);
    let config = sandbox.path("config/setup-remote-docker/config.toml");
    std::fs::write(&config, "allow_plaintext = true").unwrap();
    let output = sandbox.program("list").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_snapshot!(all);
}
