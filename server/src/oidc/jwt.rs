//! A token as it is sent: a JSON Web Token in its compact form (RFC 7519, RFC 7515). Nothing here is
//! believed yet.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;
use super::json::{self, Json};

/// More than any CI system signs for a job.
pub const MAX_BYTES: usize = 8 * 1024;
const MAX_KID_BYTES: usize = 256;

/// How a token is signed. There is no `none`, and nothing with a shared secret: a public key must never be
/// taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "PS256" => Self::Ps256,
            "ES256" => Self::Es256,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A token that was taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Parsed<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: BTreeMap<String, Json>,
    /// What is signed.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// Whether it looks like one, and not like a token of this server's own.
#[must_use]
pub fn looks_like_jwt(token: &[u8]) -> bool {
    // What begins with `{"` in base64.
    token.starts_with(b"eyJ") && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Takes a token apart. Of its header only `alg`, `kid`, `typ` and `crit` mean something; keys that it
/// brings along (`jwk`, `jku`, `x5c`, `x5u`) are nothing to go by, for they are its sender's.
pub(super) fn parse(token: &[u8]) -> Result<Parsed<'_>, Refusal> {
    if token.len() > MAX_BYTES {
        return Err(Refusal::TooLarge);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed("it has not three parts"));
    };
    let message = token
        .get(..header.len() + 1 + payload.len())
        .unwrap_or_default();
    let decode = |part: &[u8]| {
        let decoded = URL_SAFE_NO_PAD.decode(part);
        decoded.map_err(|_| Refusal::Malformed("a part of it is not base64url"))
    };
    let header = json::object(&decode(header)?)
        .ok_or(Refusal::Malformed("its header is no plain JSON object"))?;
    let claims = json::object(&decode(payload)?)
        .ok_or(Refusal::Malformed("its claims are no plain JSON object"))?;
    let signature = decode(signature)?;
    if header.contains_key("crit") {
        return Err(Refusal::Malformed("its header asks for an extension"));
    }
    match header.get("typ") {
        None => {}
        Some(Json::Text(kind)) if kind.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(Refusal::Malformed("its header says that it is no JWT")),
    }
    let algorithm = header.get("alg").and_then(Json::as_text);
    let algorithm = algorithm
        .and_then(Algorithm::from_name)
        .ok_or(Refusal::Algorithm)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Json::Text(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.clone()),
        Some(_) => return Err(Refusal::Malformed("its header has no usable `kid`")),
    };
    Ok(Parsed {
        algorithm,
        kid,
        claims,
        message,
        signature,
    })
}
