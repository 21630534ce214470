//! The public keys of an issuer (RFC 7517), and signatures that are checked with them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::Refusal;
use super::json::{self, Json};
use super::jwt::{Algorithm, Parsed};

/// More than any issuer has at a time.
const MAX_KEYS: usize = 100;

/// Keys that can check signatures. Those of other kinds were left out, shared secrets above all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    kid: Option<String>,
    /// The only algorithm it is for, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Keys {
    /// Reads a key set; keys in it that are of no use here are left out.
    ///
    /// # Errors
    /// When it is no key set, or no key in it can be used.
    pub fn from_jwks(bytes: &[u8]) -> Result<Self, &'static str> {
        let set = json::object(bytes).ok_or("it is no plain JSON object")?;
        let Some(Json::List(keys)) = set.get("keys") else {
            return Err("it has no list `keys`");
        };
        if keys.len() > MAX_KEYS {
            return Err("it has more than 100 keys");
        }
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("it has no key for RS256, PS256, ES256 or EdDSA");
        }
        Ok(Self(keys))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a key of this name is among them, or one could be meant by a token that names none.
    pub(super) fn has(&self, kid: Option<&str>) -> bool {
        match kid {
            Some(kid) => self.0.iter().any(|key| key.kid.as_deref() == Some(kid)),
            None => !self.0.is_empty(),
        }
    }

    /// Checks the token's signature with the one key that can be meant.
    pub(super) fn check(&self, token: &Parsed<'_>) -> Result<(), Refusal> {
        if token.kid.is_none() && self.0.len() > 1 {
            return Err(Refusal::NoKeyNamed);
        }
        if !self.has(token.kid.as_deref()) {
            return Err(Refusal::UnknownKey);
        }
        let named = self
            .0
            .iter()
            .filter(|key| token.kid.is_none() || key.kid == token.kid);
        let mut fitting = named.filter(|key| key.is_for(token.algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => key.check(token),
            // The token asks for another algorithm than its key is for.
            (None, _) => Err(Refusal::Algorithm),
            (Some(_), Some(_)) => Err(Refusal::TwoKeys),
        }
    }
}

impl Key {
    fn read(json: &Json) -> Option<Self> {
        let Json::Object(members) = json else {
            return None;
        };
        let text = |name: &str| members.get(name).and_then(Json::as_text);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(Json::List(operations)) = members.get("key_ops")
            && !operations.contains(&Json::Text("verify".to_owned()))
        {
            return None;
        }
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa {
                n: number(members, "n")?,
                e: number(members, "e")?,
            },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Material::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(members, "x")?),
            _ => return None,
        };
        let key = Self {
            kid: text("kid").map(str::to_owned),
            algorithm: text("alg").map(str::to_owned),
            material,
        };
        let all = [
            Algorithm::Rs256,
            Algorithm::Ps256,
            Algorithm::Es256,
            Algorithm::EdDsa,
        ];
        all.into_iter().any(|it| key.is_for(it)).then_some(key)
    }

    /// What a key is for is its issuer's word and not the token's.
    fn is_for(&self, algorithm: Algorithm) -> bool {
        let is_kind = matches!(
            (&self.material, algorithm),
            (Material::Rsa { .. }, Algorithm::Rs256 | Algorithm::Ps256)
                | (Material::P256(_), Algorithm::Es256)
                | (Material::Ed25519(_), Algorithm::EdDsa)
        );
        let named = self.algorithm.as_deref();
        is_kind && named.is_none_or(|name| Algorithm::from_name(name) == Some(algorithm))
    }

    fn check(&self, token: &Parsed<'_>) -> Result<(), Refusal> {
        let (message, signature) = (token.message, token.signature.as_slice());
        let checked = match &self.material {
            Material::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                let scheme = if token.algorithm == Algorithm::Ps256 {
                    &RSA_PSS_2048_8192_SHA256
                } else {
                    &RSA_PKCS1_2048_8192_SHA256
                };
                key.verify(scheme, message, signature)
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Ed25519(point) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature)
            }
        };
        checked.map_err(|_| Refusal::Signature)
    }
}

fn bytes(members: &BTreeMap<String, Json>, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(members.get(name)?.as_text()?).ok()
}

/// A number, most significant byte first, without the zeros that some write before it.
fn number(members: &BTreeMap<String, Json>, name: &str) -> Option<Vec<u8>> {
    let bytes = bytes(members, name)?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes.get(first..)?.to_vec())
}
