//! The authority and its gatekeeper, judged by a TLS library's own verifiers.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::ids::VmId;

const NOW: OffsetDateTime = time::macros::datetime!(2026-03-01 12:00 UTC);
const HOUR: Duration = Duration::HOUR;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/", $name, ".pem"))
    };
}

fn authority() -> VmCa {
    VmCa::generate(VmId::from_bits(7), NOW, NOW + HOUR).unwrap()
}

fn fresh_csr() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let pem = csr_for(&key);
    (key, pem)
}

fn csr_for(key: &KeyPair) -> String {
    let request = CertificateParams::default().serialize_request(key);
    request.unwrap().pem().unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(ca: &VmCa) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der(&ca.ca_pem())).unwrap();
    Arc::new(roots)
}

fn unix(time: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(time.unix_timestamp()).unwrap();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn server_verdict(ca: &VmCa, cert: &str, name: &str, at: OffsetDateTime) -> Result<(), String> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(ca), default_provider().into())
            .build()
            .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier
        .verify_server_cert(&der(cert), &[], &name, &[], unix(at))
        .map(drop)
        .map_err(|error| error.to_string())
}

fn client_verdict(ca: &VmCa, cert: &str, at: OffsetDateTime) -> Result<(), String> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(ca), default_provider().into())
            .build()
            .unwrap();
    verifier
        .verify_client_cert(&der(cert), &[], unix(at))
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn a_server_certificate_is_good_for_its_names_its_time_and_nothing_else() {
    let ca = authority();
    let names = ["127.0.0.1", "build-host.example"].map(SanName::from_host);
    let cert = ca
        .sign_server(&fresh_csr().1, &names, NOW, NOW + HOUR)
        .unwrap();

    for name in ["127.0.0.1", "build-host.example"] {
        for at in [NOW - Duration::hours(23), NOW, NOW + Duration::minutes(59)] {
            assert_eq!(server_verdict(&ca, &cert, name, at), Ok(()), "{name} {at}");
        }
        for at in [NOW - Duration::hours(25), NOW + Duration::minutes(61)] {
            assert!(server_verdict(&ca, &cert, name, at).is_err(), "{name} {at}");
        }
    }
    assert!(server_verdict(&ca, &cert, "127.0.0.2", NOW).is_err());
    assert!(client_verdict(&ca, &cert, NOW).is_err());
}

#[test]
fn a_client_certificate_lets_in_at_its_own_machine_only() {
    let (ca, other) = (authority(), authority());
    let cert = ca
        .sign_client(&fresh_csr().1, "l-0000000000007", NOW, NOW + HOUR)
        .unwrap();

    assert_eq!(client_verdict(&ca, &cert, NOW), Ok(()));
    assert!(client_verdict(&other, &cert, NOW).is_err());
    assert!(server_verdict(&ca, &cert, "l-0000000000007", NOW).is_err());
}

#[test]
fn nothing_outlives_its_authority_and_nothing_is_made_without_time() {
    let ca = authority();
    let csr = fresh_csr().1;
    let long = ca
        .sign_client(&csr, "x", NOW, NOW + Duration::days(9))
        .unwrap();
    let long = der(&long);
    let (_, parsed) = X509Certificate::from_der(&long).unwrap();
    let end = parsed.validity().not_after.to_datetime();
    assert_eq!(end, NOW + HOUR);

    let late = ca.sign_client(&csr, "x", NOW + HOUR, NOW + HOUR * 2);
    assert!(matches!(late, Err(PkiError::NoTimeLeft { .. })), "{late:?}");
    let backwards = VmCa::generate(VmId::from_bits(1), NOW, NOW);
    assert!(matches!(backwards, Err(PkiError::NoTimeLeft { .. })));
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let ca = authority();
    let csr = fixture!("asks-to-be-an-authority");
    let cert = der(&ca.sign_client(csr, "lease", NOW, NOW + HOUR).unwrap());
    let (_, cert) = X509Certificate::from_der(&cert).unwrap();

    assert_eq!(cert.subject().to_string(), "CN=lease");
    assert!(!cert.is_ca());
    assert!(cert.subject_alternative_name().unwrap().is_none());
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.code_signing && !usage.any);
    assert!(cert.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(!cert.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn an_authority_signs_leaves_only_and_names_its_machine() {
    let ca = der(&authority().ca_pem());
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert!(ca.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(
        ca.subject().to_string(),
        format!("CN=remote-dockerd authority of {}", VmId::from_bits(7))
    );
}

#[test]
fn serials_and_keys_are_never_the_same_twice() {
    let (one, two) = (authority(), authority());
    assert_ne!(one.ca_pem(), two.ca_pem());
    let csr = fresh_csr().1;
    let certs = [1, 2].map(|_| der(&one.sign_client(&csr, "x", NOW, NOW + HOUR).unwrap()));
    let serials = certs.each_ref().map(|cert| {
        X509Certificate::from_der(cert)
            .unwrap()
            .1
            .raw_serial()
            .to_vec()
    });
    assert_ne!(serials[0], serials[1]);
    assert_eq!(serials[0].len(), 16);
}

#[test]
fn the_key_of_an_authority_is_not_in_its_debug_text() {
    assert_eq!(
        format!("{:?}", authority()),
        "VmCa { not_after: 2026-03-01 13:00:00.0 +00:00:00, .. }"
    );
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    let ca = authority();
    let csr = fresh_csr().1;
    for name in ["", "a b", "-a", "a-", "a..b", "*.example", "bücher", "a/b"] {
        let answer = ca.sign_server(&csr, &[SanName::Dns(name.into())], NOW, NOW + HOUR);
        assert!(
            matches!(answer, Err(PkiError::Name(_))),
            "{name}: {answer:?}"
        );
    }
}

#[test]
fn keys_of_every_allowed_kind_are_taken_and_certified() {
    let made = |algorithm| csr_for(&KeyPair::generate_for(algorithm).unwrap());
    let (p256, p384, ed25519) = (
        fresh_csr().1,
        made(&PKCS_ECDSA_P384_SHA384),
        made(&PKCS_ED25519),
    );
    let ca = authority();
    for (pem, kind) in [
        (p256.as_str(), KeyKind::P256),
        (p384.as_str(), KeyKind::P384),
        (ed25519.as_str(), KeyKind::Ed25519),
        (fixture!("ec-prime256v1"), KeyKind::P256),
        // P-384 with SHA-256: the curve counts, not the name of the signature.
        (fixture!("ec-secp384r1"), KeyKind::P384),
        (fixture!("ec-secp384r1-sha384"), KeyKind::P384),
        (fixture!("ed25519"), KeyKind::Ed25519),
        (fixture!("rsa-2048"), KeyKind::Rsa(2048)),
    ] {
        assert_eq!(check_csr(pem).map(|csr| csr.kind()), Ok(kind));
        let cert = ca.sign_client(pem, "x", NOW, NOW + HOUR).unwrap();
        assert_eq!(client_verdict(&ca, &cert, NOW), Ok(()), "{kind:?}");
    }
    // Windows line ends, surrounding blank lines and the older label are all harmless.
    let windows = format!(
        "\r\n{}\r\n",
        p256.trim().replace("\r\n", "\n").replace('\n', "\r\n")
    );
    assert_eq!(check_csr(&windows).map(|csr| csr.kind()), Ok(KeyKind::P256));
    let older = p256.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
    assert_eq!(check_csr(&older).map(|csr| csr.kind()), Ok(KeyKind::P256));
}

#[test]
fn weak_and_unknown_keys_and_signatures_are_refused_by_name() {
    let curve = |name: &str| CsrError::Curve { curve: name.into() };
    let kind = |name: &str| CsrError::KeyKind { kind: name.into() };
    let signature = |name: &str| CsrError::SignatureAlgorithm {
        algorithm: name.into(),
    };
    for (pem, expected) in [
        (fixture!("rsa-1024"), CsrError::RsaSize { bits: 1024 }),
        (fixture!("rsa-2047"), CsrError::RsaSize { bits: 2047 }),
        (fixture!("rsa-16384"), CsrError::RsaSize { bits: 16384 }),
        (fixture!("rsa-2048-exponent-3"), CsrError::RsaExponent),
        (fixture!("rsa-pss-key"), kind("RSASSA-PSS")),
        (fixture!("ed448"), kind("Ed448")),
        (fixture!("ec-secp521r1"), curve("P-521")),
        (fixture!("ec-secp256k1"), curve("secp256k1")),
        (
            fixture!("ec-explicit-parameters"),
            curve("given by explicit parameters"),
        ),
        (fixture!("rsa-2048-md5"), signature("MD5 and RSA")),
        (fixture!("rsa-2048-sha1"), signature("SHA-1 and RSA")),
        (fixture!("ec-prime256v1-sha1"), signature("SHA-1 and ECDSA")),
        // With the salt that OpenSSL takes by default, TLS libraries cannot verify it.
        (fixture!("rsa-2048-pss-signature"), signature("RSASSA-PSS")),
    ] {
        assert_eq!(check_csr(pem).map(|csr| csr.kind()), Err(expected));
    }
}

#[test]
fn what_is_not_exactly_one_request_is_refused() {
    let good = fresh_csr().1;
    let good = good.trim();
    let (head, body) = good.split_once('\n').unwrap();
    let refused = |text: &str| check_csr(text).map(|csr| csr.kind()).unwrap_err();

    assert!(matches!(refused(""), CsrError::NotPem(_)));
    assert!(matches!(refused("hello"), CsrError::NotPem(_)));
    assert!(matches!(
        refused(&format!("hello\n{good}")),
        CsrError::NotPem(_)
    ));
    assert!(matches!(
        refused(&format!("{good}\ngarbage")),
        CsrError::NotPem(_)
    ));
    assert!(matches!(refused(head), CsrError::NotPem(_)));
    assert!(matches!(
        refused(&format!("{head}\n!{body}")),
        CsrError::NotPem(_)
    ));
    assert_eq!(refused(&format!("{good}\n{good}")), CsrError::MoreThanOne);
    assert!(matches!(
        refused(&"A".repeat(MAX_CSR_BYTES + 1)),
        CsrError::TooLarge { .. }
    ));
    let certificate = authority().ca_pem();
    assert_eq!(
        refused(&certificate),
        CsrError::WrongPemType {
            label: "CERTIFICATE".into()
        }
    );
    let key = KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(refused(&key), CsrError::PrivateKey);
    assert_eq!(refused(&format!("{good}\n{key}")), CsrError::PrivateKey);
    assert_eq!(refused(&wrap(b"\x30\x03\x02\x01\x00")), CsrError::Malformed);
}

#[test]
fn bytes_after_the_request_and_forged_signatures_are_refused() {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let der = request.der().to_vec();

    let mut longer = der.clone();
    longer.extend(b"xyz");
    let trailing = check_csr(&wrap(&longer)).map(|csr| csr.kind());
    assert_eq!(trailing, Err(CsrError::TrailingData { bytes: 3 }));

    // Another key in the same place, under the old signature: no proof that the sender has it.
    let stranger = KeyPair::generate().unwrap();
    let old = key.public_key_raw();
    let at = der
        .windows(old.len())
        .position(|bytes| bytes == old)
        .unwrap();
    let mut forged = der;
    forged[at..at + old.len()].copy_from_slice(stranger.public_key_raw());
    let forged = check_csr(&wrap(&forged)).map(|csr| csr.kind());
    assert_eq!(forged, Err(CsrError::BadSignature));
}

/// A PEM block of a request around any bytes.
fn wrap(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut base64 = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            base64.push(if place > chunk.len() {
                '='
            } else {
                char::from(ALPHABET[digit as usize])
            });
        }
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{base64}\n-----END CERTIFICATE REQUEST-----\n")
}

/// The envelope around the signed part may be spelled in more than one way, as the parser takes
/// some liberties; what is signed, and the signature, may not.
#[test]
fn no_bit_of_what_is_signed_can_be_flipped() {
    for pem in [fixture!("rsa-2048"), fixture!("ec-prime256v1")] {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let good = block.contents;
        let (_, request) = X509CertificationRequest::from_der(&good).unwrap();
        let info = request.certification_request_info.raw;
        let start = good.len() - request.signature_value.data.len();
        let info_at = good
            .windows(info.len())
            .position(|part| part == info)
            .unwrap();
        let is_signed = |byte| (info_at..info_at + info.len()).contains(&byte) || byte >= start;
        let key = check_csr(&wrap(&good)).unwrap().key;
        for (byte, bit) in (0..good.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut bad = good.clone();
            bad[byte] ^= 1 << bit;
            if let Ok(csr) = check_csr(&wrap(&bad)) {
                assert!(
                    !is_signed(byte) && csr.key == key,
                    "bit {bit} of byte {byte}"
                );
            }
        }
    }
}

proptest::proptest! {
    /// Whatever is sent is answered and not panicked about.
    #[test]
    fn rubbish_is_refused(der: Vec<u8>, text: String) {
        proptest::prop_assert!(check_csr(&wrap(&der)).is_err());
        proptest::prop_assert!(check_csr(&text).is_err());
    }
}
