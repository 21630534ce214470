//! Docker engines.

use serde::{Deserialize, Serialize};

/// An engine that leases can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Engine {
    /// What requests call it, such as `28`.
    pub name: String,
    /// Its full version, such as `28.5.2`; requests may also name it by this.
    pub version: String,
    /// What else it is called here, such as `default` or `edge`.
    pub aliases: Vec<String>,
    /// Whether requests get it that name none.
    pub is_default: bool,
}

/// Answer of `GET /v1/engines`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EngineList {
    /// The engines on offer, the oldest first.
    pub engines: Vec<Engine>,
}
