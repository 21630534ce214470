//! Who the guest's TLS lets in. The client is OpenSSL's, which shares no code with either side.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::process::{bounded, said, succeed, text};
use e2e::{Machine, TestServer};

const PING: &[u8] = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";

/// What a client gets for a ping, with the certificate and key in this folder or without one.
fn ping(machine: &Machine, identity: Option<&Path>) -> String {
    let mut command = bounded(Duration::from_secs(60), "openssl");
    command
        .args(["s_client", "-quiet", "-connect", machine.endpoint()])
        .args(["-verify_return_error", "-CAfile"])
        .arg(machine.certificates().join("ca.pem"));
    if let Some(folder) = identity {
        command.arg("-cert").arg(folder.join("cert.pem"));
        command.arg("-key").arg(folder.join("key.pem"));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // The other side may have hung up by now.
    let _ = input.write_all(PING);
    let output = child.wait_with_output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{}", said(&output));
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn is_let_in(answer: &str) -> bool {
    answer.contains("200 OK") || answer.contains("Api-Version")
}

#[test]
fn the_holder_of_the_lease_is_let_in() {
    let server = TestServer::start();
    let machine = server.lease();
    let answer = ping(&machine, Some(machine.certificates()));
    assert!(is_let_in(&answer), "{answer}");
}

#[test]
fn nobody_is_let_in_without_a_certificate() {
    let server = TestServer::start();
    let machine = server.lease();
    let answer = ping(&machine, None);
    assert!(!is_let_in(&answer), "{answer}");
    assert!(answer.contains("alert"), "{answer}");
}

#[test]
fn the_holder_of_another_lease_is_not_let_in() {
    let server = TestServer::start();
    let (machine, other) = (server.lease(), server.lease());
    let answer = ping(&machine, Some(other.certificates()));
    assert!(!is_let_in(&answer), "{answer}");
    assert!(answer.contains("alert"), "{answer}");
    // It is the certificate and nothing else that was wrong.
    assert!(is_let_in(&ping(&other, Some(other.certificates()))));
}

#[test]
fn a_certificate_of_another_authority_is_not_let_in() {
    let server = TestServer::start();
    let machine = server.lease();
    let folder = server.root().join("forged");
    std::fs::create_dir(&folder).unwrap();
    // The same names as on the real ones, from an authority of our own.
    let name = |file: &str| {
        succeed(
            bounded(Duration::from_secs(60), "openssl")
                .args(["x509", "-noout", "-subject", "-nameopt", "compat", "-in"])
                .arg(machine.certificates().join(file)),
        )
        .replace("subject=", "")
    };
    let (ca, client) = (name("ca.pem"), name("cert.pem"));
    let script = format!(
        "cd '{}' && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
           -keyout ca.key -out ca.pem -subj '/{ca}' && \
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out csr.pem \
           -subj '/{client}' && \
         printf 'extendedKeyUsage=clientAuth\\n' > ext && \
         openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -days 1 -out cert.pem -extfile ext",
        folder.display(),
        ca = ca.trim_start_matches('/'),
        client = client.trim_start_matches('/'),
    );
    succeed(bounded(Duration::from_secs(60), "sh").args(["-c", &script]));
    let answer = ping(&machine, Some(&folder));
    assert!(!is_let_in(&answer), "{answer}");
    assert!(answer.contains("alert"), "{answer}");
}

#[test]
fn plain_http_gets_no_answer() {
    let server = TestServer::start();
    let machine = server.lease();
    let mut stream = TcpStream::connect(machine.endpoint()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(PING).unwrap();
    let mut answer = Vec::new();
    // Closed or reset, but closed: a timeout is a failure.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("HTTP"), "{answer}");
}

#[test]
fn the_guest_shows_a_certificate_of_its_own_authority() {
    let server = TestServer::start();
    let (machine, other) = (server.lease(), server.lease());
    // A client of one machine that ends up at the other notices.
    let mut command = bounded(Duration::from_secs(60), "openssl");
    command
        .args(["s_client", "-quiet", "-verify_return_error", "-connect"])
        .arg(other.endpoint())
        .arg("-CAfile")
        .arg(machine.certificates().join("ca.pem"))
        .arg("-cert")
        .arg(machine.certificates().join("cert.pem"))
        .arg("-key")
        .arg(machine.certificates().join("key.pem"));
    let output = e2e::process::run(&mut command);
    assert!(!output.status.success(), "{}", said(&output));
    let words = text(&output.stderr);
    assert!(words.contains("verify error"), "{words}");
}
