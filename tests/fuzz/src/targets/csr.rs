//! Certificate requests, which come from clients and from guests.

use std::sync::OnceLock;

use rcgen::{CertificateParams, KeyPair, SanType};
use remote_dockerd::ids::VmId;
use remote_dockerd::pki::{CsrError, KeyKind, MAX_CSR_BYTES, PkiError, VmCa, check_csr};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{Target, outcome};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

const WORDS: &[&[u8]] = &[
    b"-----BEGIN CERTIFICATE REQUEST-----\n",
    b"\n-----END CERTIFICATE REQUEST-----\n",
    b"-----BEGIN NEW CERTIFICATE REQUEST-----\n",
    b"-----BEGIN PRIVATE KEY-----\n",
    b"Proc-Type: 4,ENCRYPTED\n\n",
    // Beginnings of DER: sequences of various lengths, an integer, the identifiers of keys, of curves
    // and of signatures, an attribute that asks for extensions.
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x82\x01\x00",
    b"\x02\x01\x00",
    b"\x02\x03\x01\x00\x01",
    b"\x03\x42\x00\x04",
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
    b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
    b"\x06\x05\x2b\x81\x04\x00\x22",
    b"\x06\x05\x2b\x81\x04\x00\x0a",
    b"\x06\x03\x2b\x65\x70",
    b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
    b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b",
    b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05",
    b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e",
    b"\xa0\x00",
    b"\x05\x00",
];

pub(super) fn target() -> Target {
    Target {
        name: "csr",
        what: "certificate requests, as text or as what is in the text",
        words: WORDS,
        most_bytes: MAX_CSR_BYTES + 64,
        most_memory: 8 << 20,
        seeds,
        run,
    }
}

/// A good request of each kind of key that can be made here, as text and as its content; with names that
/// its sender has no right to.
fn seeds() -> Vec<Vec<u8>> {
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    let mut seeds = Vec::new();
    for kind in kinds {
        let key = KeyPair::generate_for(kind).expect("a key");
        let mut params = CertificateParams::default();
        let name = "docker.example".try_into().expect("a name");
        params.subject_alt_names = vec![SanType::DnsName(name)];
        let request = params.serialize_request(&key).expect("a request");
        let text = request.pem().expect("PEM");
        seeds.push([b"t".as_slice(), text.as_bytes()].concat());
        seeds.push([b"d".as_slice(), request.der()].concat());
    }
    seeds
}

fn authority() -> &'static VmCa {
    static CA: OnceLock<VmCa> = OnceLock::new();
    CA.get_or_init(|| {
        VmCa::generate(VmId::from_bits(1), NOW, NOW + Duration::HOUR).expect("an authority")
    })
}

/// The first byte says whether the rest is text or what goes into it.
fn run(input: &[u8]) -> u64 {
    let (&kind, rest) = input.split_first().unwrap_or((&b't', &[]));
    let text = if kind == b'd' {
        pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", rest))
    } else {
        String::from_utf8_lossy(rest).into_owned()
    };
    let until = NOW + Duration::HOUR;
    match check_csr(&text) {
        Err(refused) => {
            let words = refused.to_string();
            assert!(words.len() < 400, "{} bytes", words.len());
            assert!(
                !words.contains("PRIVATE KEY-----"),
                "a key would land in a log"
            );
            // What is refused is signed in no other way.
            let signed = authority().sign_client(&text, "lease", NOW, until);
            assert!(
                matches!(&signed, Err(PkiError::Csr(error)) if *error == refused),
                "{signed:?}"
            );
            let signed = authority().sign_server(&text, &[], NOW, until);
            assert!(matches!(signed, Err(PkiError::Csr(_))), "{signed:?}");
            outcome(word(&refused))
        }
        Ok(checked) => {
            assert!(text.len() <= MAX_CSR_BYTES);
            assert!(matches!(
                checked.kind(),
                KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 | KeyKind::Rsa(2048..=8192)
            ));
            let signed = authority().sign_client(&text, "lease", NOW, until);
            only_the_key_is_taken(&text, &signed.expect("a certificate"));
            outcome(&format!("{:?}", checked.kind()))
        }
    }
}

fn only_the_key_is_taken(request: &str, certificate: &str) {
    let (_, request) = parse_x509_pem(request.trim().as_bytes()).expect("PEM that was taken");
    let (_, request) = X509CertificationRequest::from_der(&request.contents).expect("a request");
    let (_, certificate) = parse_x509_pem(certificate.as_bytes()).expect("PEM");
    let certificate = certificate.parse_x509().expect("a certificate");
    let asked = &request.certification_request_info.subject_pki;
    assert_eq!(
        certificate.public_key().subject_public_key.data,
        asked.subject_public_key.data,
        "another key"
    );
    assert!(!certificate.is_ca(), "an authority");
    let names = certificate.subject_alternative_name();
    assert!(
        matches!(names, Ok(None)),
        "names of its sender's choice: {names:?}"
    );
    let mut subject = certificate.subject().iter_common_name();
    let subject = subject.next().and_then(|name| name.as_str().ok());
    assert_eq!(subject, Some("lease"));
}

fn word(error: &CsrError) -> &'static str {
    match error {
        CsrError::TooLarge { .. } => "too large",
        CsrError::NotPem(why) => why,
        CsrError::PrivateKey => "private key",
        CsrError::WrongPemType { .. } => "type",
        CsrError::MoreThanOne => "more",
        CsrError::Malformed => "malformed",
        CsrError::TrailingData { .. } => "trailing",
        CsrError::RsaSize { .. } => "rsa size",
        CsrError::RsaExponent => "rsa exponent",
        CsrError::Curve { .. } => "curve",
        CsrError::KeyKind { .. } => "kind",
        CsrError::MalformedKey => "malformed key",
        CsrError::SignatureAlgorithm { .. } => "algorithm",
        CsrError::BadSignature => "signature",
    }
}
