//! Certificate requests from outside: what is taken, and why the rest is refused.

use std::fmt;

use rcgen::SubjectPublicKeyInfo;
use x509_parser::asn1_rs::Tag;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
    Oid,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo as ParsedKey};

/// Size up to which a request is read, in bytes of PEM. One for RSA with 8192 bits has about 2.8 KiB.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// FIPS 186-5: the public exponent is odd and above 2^16.
const MIN_RSA_EXPONENT: u64 = 65_537;

const LABEL: &str = "CERTIFICATE REQUEST";
/// What some tools, among them old OpenSSL, write for the same thing.
const OTHER_LABEL: &str = "NEW CERTIFICATE REQUEST";

/// Why a certificate request is refused. Every message says what is taken instead; none echoes
/// more than a few words of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More bytes than any sensible request has.
    #[error("it has {bytes} bytes; at most {MAX_CSR_BYTES} are taken")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Not a PEM block.
    #[error("it is not PEM: {0}")]
    NotPem(&'static str),
    /// The client sent its private key. It must be told apart, as the key is to be thrown away.
    #[error(
        "it is a private key, which must never leave the machine that made it: throw this key \
         away, make a new one and send a certificate request for it"
    )]
    PrivateKey,
    /// Some other PEM block.
    #[error("it is a PEM block `{label}`; expected `CERTIFICATE REQUEST`")]
    WrongPemType {
        /// What it calls itself, cut to a readable length.
        label: String,
    },
    /// More than one PEM block.
    #[error("it has more than one PEM block; expected exactly one")]
    MoreThanOne,
    /// The PEM block does not hold a request.
    #[error("its content is not a PKCS #10 request in DER")]
    Malformed,
    /// Bytes follow the request inside the PEM block.
    #[error("{bytes} bytes follow the request inside the PEM block")]
    TrailingData {
        /// How many.
        bytes: usize,
    },
    /// RSA with too few or too many bits.
    #[error(
        "its RSA key has {bits} bits; allowed are {min} to {max}",
        min = RSA_BITS.start(), max = RSA_BITS.end()
    )]
    RsaSize {
        /// How many bits the modulus has.
        bits: usize,
    },
    /// RSA with a small or even public exponent.
    #[error("the public exponent of its RSA key is weak; allowed are odd ones from 65537 on")]
    RsaExponent,
    /// A curve that is not taken.
    #[error("its key lies on the curve {curve}; allowed are P-256 and P-384")]
    Curve {
        /// Name or object identifier.
        curve: String,
    },
    /// A kind of key that is not taken.
    #[error(
        "its key is of the kind {kind}; allowed are ECDSA P-256 and P-384, Ed25519, and RSA with \
         2048 to 8192 bits"
    )]
    KeyKind {
        /// Name or object identifier.
        kind: String,
    },
    /// The key cannot be read.
    #[error("its public key is malformed")]
    MalformedKey,
    /// Signed with an algorithm that is broken or not supported.
    #[error(
        "it is signed with {algorithm}; allowed are Ed25519, ECDSA with SHA-256 or SHA-384, and \
         RSA (PKCS #1 v1.5) with SHA-256, SHA-384 or SHA-512"
    )]
    SignatureAlgorithm {
        /// Name or object identifier.
        algorithm: String,
    },
    /// The signature was not made with the key that the request is for.
    #[error("its signature was not made with its own key, so it proves no possession of the key")]
    BadSignature,
}

/// The kind of a key that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits.
    Rsa(usize),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// The public key of a request whose sender has proven to hold the private one. Nothing else of
/// the request is kept.
#[derive(Clone)]
pub struct CheckedCsr {
    kind: KeyKind,
    pub(super) key: SubjectPublicKeyInfo,
}

impl CheckedCsr {
    /// What kind of key it is for.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }
}

impl fmt::Debug for CheckedCsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedCsr({:?})", self.kind)
    }
}

/// Reads a request (PEM), checks its key against the policy and its signature against its key.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_csr(pem: &str) -> Result<CheckedCsr, CsrError> {
    let der = decode_pem(pem)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::TrailingData { bytes: rest.len() });
    }
    let public_key = &request.certification_request_info.subject_pki;
    let kind = check_key(public_key)?;
    check_signature_algorithm(&request.signature_algorithm)?;
    // The library refuses points that are not on their curve and algorithms that do not fit the key.
    request
        .verify_signature()
        .map_err(|_| CsrError::BadSignature)?;
    let key = SubjectPublicKeyInfo::from_der(public_key.raw).map_err(|_| CsrError::MalformedKey)?;
    Ok(CheckedCsr { kind, key })
}

/// The bytes of the one PEM block of `text`. Stricter than common readers, which skip whatever
/// stands around the block: a client that sends more than it should has made a mistake.
fn decode_pem(text: &str) -> Result<Vec<u8>, CsrError> {
    if text.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge { bytes: text.len() });
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(CsrError::NotPem("it is empty"));
    }
    // Wherever it stands: a private key that was pasted along is as lost as one sent alone.
    if text.contains("PRIVATE KEY-----") {
        return Err(CsrError::PrivateKey);
    }
    let label = text
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.split_once("-----"))
        .map(|(label, _)| label)
        .ok_or(CsrError::NotPem(
            "expected `-----BEGIN CERTIFICATE REQUEST-----` at its beginning",
        ))?;
    if label != LABEL && label != OTHER_LABEL {
        return Err(CsrError::WrongPemType {
            label: label.chars().take(40).collect(),
        });
    }
    if text.matches("-----BEGIN ").count() > 1 {
        return Err(CsrError::MoreThanOne);
    }
    if !text.ends_with(&format!("\n-----END {label}-----")) {
        return Err(CsrError::NotPem(
            "expected `-----END CERTIFICATE REQUEST-----` at its end",
        ));
    }
    let (rest, pem) = parse_x509_pem(text.as_bytes())
        .map_err(|_| CsrError::NotPem("its lines are not base64"))?;
    if !rest.is_empty() {
        return Err(CsrError::MoreThanOne);
    }
    Ok(pem.contents)
}

fn check_key(key: &ParsedKey<'_>) -> Result<KeyKind, CsrError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        check_rsa(&key.subject_public_key.data)
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        check_curve(&key.algorithm)
    } else if *algorithm == OID_SIG_ED25519 {
        Ok(KeyKind::Ed25519)
    } else {
        Err(CsrError::KeyKind {
            kind: name_of(algorithm),
        })
    }
}

fn check_rsa(der: &[u8]) -> Result<KeyKind, CsrError> {
    let (rest, key) = RSAPublicKey::from_der(der).map_err(|_| CsrError::MalformedKey)?;
    if !rest.is_empty() {
        return Err(CsrError::MalformedKey);
    }
    let bits = bit_length(key.modulus).ok_or(CsrError::MalformedKey)?;
    if !RSA_BITS.contains(&bits) {
        return Err(CsrError::RsaSize { bits });
    }
    let exponent = key.try_exponent().map_err(|_| CsrError::RsaExponent)?;
    if exponent < MIN_RSA_EXPONENT || exponent % 2 == 0 {
        return Err(CsrError::RsaExponent);
    }
    Ok(KeyKind::Rsa(bits))
}

/// Bits of a positive DER integer, without its leading zeros; `None` if it is not positive.
fn bit_length(integer: &[u8]) -> Option<usize> {
    if integer.first()? & 0x80 != 0 {
        return None;
    }
    let zeros = integer.iter().take_while(|&&byte| byte == 0).count();
    let first = integer.get(zeros)?;
    Some((integer.len() - zeros) * 8 - first.leading_zeros() as usize)
}

fn check_curve(algorithm: &AlgorithmIdentifier<'_>) -> Result<KeyKind, CsrError> {
    let curve = algorithm
        .parameters
        .as_ref()
        .filter(|parameters| parameters.tag() == Tag::Oid)
        .and_then(|parameters| parameters.as_oid().ok())
        // Curves spelled out by their parameters can hide a weak one behind a known name.
        .ok_or_else(|| CsrError::Curve {
            curve: "given by explicit parameters".to_owned(),
        })?;
    if curve == OID_EC_P256 {
        Ok(KeyKind::P256)
    } else if curve == OID_NIST_EC_P384 {
        Ok(KeyKind::P384)
    } else {
        Err(CsrError::Curve {
            curve: name_of(&curve),
        })
    }
}

fn check_signature_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Result<(), CsrError> {
    let allowed = [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    ];
    if allowed.contains(&algorithm.algorithm) {
        Ok(())
    } else {
        Err(CsrError::SignatureAlgorithm {
            algorithm: name_of(&algorithm.algorithm),
        })
    }
}

/// A name that people know, or the object identifier.
fn name_of(oid: &Oid<'_>) -> String {
    if *oid == OID_NIST_EC_P521 {
        return "P-521".to_owned();
    }
    let dotted = oid.to_id_string();
    match dotted.as_str() {
        "1.3.132.0.10" => "secp256k1".to_owned(),
        "1.2.840.113549.1.1.4" => "MD5 and RSA".to_owned(),
        "1.2.840.113549.1.1.5" => "SHA-1 and RSA".to_owned(),
        "1.2.840.10045.4.1" => "SHA-1 and ECDSA".to_owned(),
        "1.2.840.113549.1.1.10" => "RSASSA-PSS".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        // Bounded, as it comes from outside.
        _ => dotted.chars().take(64).collect(),
    }
}
