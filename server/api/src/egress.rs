//! What a machine may reach.

use serde::{Deserialize, Serialize};

/// What a leased machine may reach over the network. Whatever it is, a machine reaches neither other
/// machines nor the host that runs it, and is reached by the relay only.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Egress {
    /// Addresses on the public Internet, and what the site allows besides.
    #[default]
    Internet,
    /// Nothing at all, name servers neither.
    None,
    /// Private networks too, as far as the host reaches them.
    Open,
}

impl Egress {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Internet, Self::None, Self::Open];

    /// Whether this lets a machine reach everything that `other` does.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.openness() >= other.openness()
    }

    /// Each policy allows what those before it do, and more.
    const fn openness(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Internet => 1,
            Self::Open => 2,
        }
    }

    /// The policy as it stands on the wire, such as `internet`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::None => "none",
            Self::Open => "open",
        }
    }
}

impl std::fmt::Display for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_have_an_order() {
        use Egress::{Internet, None, Open};
        let order = [None, Internet, Open];
        for (place, one) in order.into_iter().enumerate() {
            for (other_place, other) in order.into_iter().enumerate() {
                assert_eq!(one.covers(other), place >= other_place, "{one} {other}");
            }
        }
    }

    #[test]
    fn a_policy_is_the_same_word_everywhere() {
        for egress in Egress::ALL {
            let word = serde_json::to_value(egress).unwrap();
            assert_eq!(word, egress.as_str());
            assert_eq!(egress.to_string(), egress.as_str());
        }
    }
}
