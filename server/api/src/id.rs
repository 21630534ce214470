//! Ids as people see them: a short prefix and thirteen characters that carry 64 random bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The 64 bits of an id as thirteen lower-case characters of Crockford's base 32, which leaves out
/// the letters that are easily misread (`i`, `l`, `o`, `u`).
pub mod short_code {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    /// How many characters every code has.
    pub const LEN: usize = 13;

    /// Writes `value` as [`LEN`] characters.
    #[must_use]
    pub fn encode(value: u64) -> String {
        (0..LEN)
            .rev()
            .map(|place| char::from(ALPHABET[((value >> (5 * place)) & 31) as usize]))
            .collect()
    }

    /// Reads what [`encode`] wrote; anything else, upper case included, is `None`, so that every
    /// value has exactly one spelling.
    #[must_use]
    pub fn decode(text: &str) -> Option<u64> {
        if text.len() != LEN {
            return None;
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|&c| c == byte)?;
            value = value << 5 | digit as u128;
        }
        u64::try_from(value).ok()
    }
}

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: expected `{prefix}` and {len} characters", len = short_code::LEN)]
pub struct ParseIdError {
    what: &'static str,
    prefix: &'static str,
    text: String,
}

/// Defines an id type: a newtype over 64 random bits with one spelling.
#[macro_export]
macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Makes the id that carries `bits`; callers draw them from the system's random source.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// The 64 bits that the id carries.
            #[must_use]
            pub const fn bits(self) -> u64 {
                self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}{}", $prefix, $crate::short_code::encode(self.0))
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::ParseIdError;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .and_then($crate::short_code::decode)
                    .map(Self)
                    .ok_or_else(|| $crate::ParseIdError::new($what, $prefix, text))
            }
        }
    };
}

impl ParseIdError {
    /// For [`define_id!`]: `what` names the kind with its article, `prefix` is how it must begin.
    #[must_use]
    pub fn new(what: &'static str, prefix: &'static str, text: &str) -> Self {
        // Long rubbish is cut, so that an error stays readable wherever it is printed.
        Self {
            what,
            prefix,
            text: text.chars().take(64).collect(),
        }
    }
}

define_id!(
    /// Names a lease, for example `l-0f3k9m2x7q8vw`.
    LeaseId,
    "a lease id",
    "l-"
);

impl Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = LeaseId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a lease id")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<LeaseId, E> {
                LeaseId::from_str(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_spelling_and_reads_back() {
        for bits in [0, 1, 31, 32, u64::MAX, 0x0123_4567_89ab_cdef] {
            let id = LeaseId::from_bits(bits);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        // One above the largest: the first character may carry four bits only.
        assert_eq!(short_code::encode(u64::MAX), "fzzzzzzzzzzzz");
        assert_eq!(short_code::decode("g000000000000"), None);
    }

    #[test]
    fn what_is_not_an_id_is_refused_with_a_bounded_message() {
        for text in [
            "",
            "l-",
            "l-0000000000000x",
            "vm-0000000000000",
            "L-0000000000000",
        ] {
            assert!(text.parse::<LeaseId>().is_err(), "{text}");
        }
        let error = "x".repeat(100_000).parse::<LeaseId>().unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
}
