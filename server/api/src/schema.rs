//! JSON schemas of what is written by hand: ids and moments. The others derive theirs.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::LeaseId;

/// A moment as it stands on the wire.
pub(crate) struct Moment;

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

impl JsonSchema for LeaseId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LeaseId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // As `short_code` writes it: 64 bits in characters of five, so the first has four.
        json_schema!({
            "type": "string",
            "pattern": "^l-[0-9a-f][0-9a-hjkmnp-tv-z]{12}$",
            "examples": ["l-0f3k9m2x7q8vw"],
        })
    }
}
