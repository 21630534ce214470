//! Tokens as an issuer signs them, and as others would like to.

mod attacks;
mod issuer;
mod rules;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_772_366_400;
pub(crate) const ISSUER: &str = "https://gitlab.example.com";
const AUDIENCE: &str = "remote-docker";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of an issuer.
pub(crate) enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        let pem = include_bytes!("rsa-of-tests.pem");
        let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(key.secret_der()).unwrap())
    }

    pub(crate) fn p256() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({
                    "kty": "RSA", "kid": kid, "use": "sig",
                    "n": encode(public.n), "e": encode(public.e),
                })
            }
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256", "kid": kid,
                    "x": encode(&point[1..33]), "y": encode(&point[33..]),
                })
            }
            Self::Ed25519(key) => json!({
                "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key()),
            }),
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let scheme: &dyn ring::signature::RsaEncoding = match algorithm {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                key.sign(scheme, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header, which names the algorithm, and these claims, as they are.
    pub(crate) fn token(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let algorithm: Value = serde_json::from_str(header).unwrap_or_default();
        let algorithm = algorithm["alg"].as_str().unwrap_or_default().to_owned();
        let signature = self.sign(&algorithm, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }
}

pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "project_path:group/web:ref_type:branch:ref:main",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 300,
        "project_path": "group/web", "ref_protected": "true",
    })
}

pub(crate) fn changed(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn rule(project: &str, claims: &[(&str, &[&str])]) -> Rule {
    let claims = claims.iter().map(|(name, wanted)| {
        let wanted = wanted.iter().map(|text| (*text).to_owned());
        ((*name).to_owned(), Pattern(wanted.collect()))
    });
    Rule {
        project: project.to_owned(),
        claims: claims.collect(),
    }
}

pub(crate) fn terms() -> Terms {
    Terms {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        max_age_s: 86_400,
        rules: vec![rule(
            "web",
            &[
                ("project_path", &["group/web"]),
                ("ref_protected", &["true"]),
            ],
        )],
    }
}
