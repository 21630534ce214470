//! Tokens as secrets: drawn, and known again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::clock::random_bytes;

/// What every token begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "rdt_";

/// A new token: 256 random bits in hexadecimal digits.
///
/// # Errors
/// When the system gives no random numbers.
pub(super) fn draw() -> Result<String, getrandom::Error> {
    let bits: [u8; 32] = random_bytes()?;
    Ok(format!("{PREFIX}{}", hex(&bits)))
}

/// SHA-256 of a token: enough to know it again, of no use to whoever sees it.
///
/// A slow hash is for passwords, which people choose and which can therefore be tried out. There are
/// 2^256 tokens, each as likely as any other, so trying gets nowhere at any speed, and a fast hash lets the
/// server look at each request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of this token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether it is of this token. The time it takes tells nothing about how much of it is right.
    #[must_use]
    pub fn matches(&self, token: &[u8]) -> bool {
        self.same(&Self::of(token)).into()
    }

    pub(super) fn same(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// As it stands in files: 64 hexadecimal digits.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for TokenHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        unhex(text).map(Self).ok_or(NoHash)
    }
}

/// The text is no hash of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NoHash;

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |place: usize| char::from(*pair.get(place)?).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_256_bits_and_a_prefix() {
        let tokens = [draw().unwrap(), draw().unwrap()];
        assert_ne!(tokens[0], tokens[1]);
        for token in tokens {
            assert_eq!(token.len(), 4 + 64);
            assert!(token.starts_with(PREFIX));
        }
    }

    #[test]
    fn a_hash_shows_nothing_and_reads_back() {
        let hash = TokenHash::of(b"rdt_x");
        assert_eq!(format!("{hash:?}"), "TokenHash(..)");
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<TokenHash>(&json).unwrap(), hash);
        assert!(hash.matches(b"rdt_x") && !hash.matches(b"rdt_y") && !hash.matches(b""));
        for bad in [
            "\"\"",
            "\"ab\"",
            &format!("\"{}\"", "g".repeat(64)),
            &format!("\"{}\"", "é".repeat(32)),
        ] {
            assert!(serde_json::from_str::<TokenHash>(bad).is_err(), "{bad}");
        }
    }
}
