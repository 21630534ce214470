//! JSON bodies, read with a limit on size and time, and refused in words that help.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::ApiState;
use super::error::ApiError;

/// How long a body may take from its first byte to its last.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a body beyond the limit is read and thrown away, in bytes. A client that is still
/// sending when the connection closes never gets to read why.
const DRAIN_BYTES: usize = 1024 * 1024;
/// How much of what a client sent may come back in a message, in characters.
const ECHO_CHARS: usize = 120;

/// The body of a request as a `T`.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<ApiState>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<ApiState>) -> Result<Self, ApiError> {
        let reading = read(request.into_body(), api.max_body_bytes);
        let bytes = tokio::time::timeout(READ_TIMEOUT, reading)
            .await
            .map_err(|_| ApiError::BodyTooSlow {
                seconds: READ_TIMEOUT.as_secs(),
            })??;
        parse(&bytes).map(Self)
    }
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut surplus = 0;
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|_| ApiError::InvalidBody("the body broke off in transit".to_owned()))?;
        if surplus > 0 || bytes.len() + chunk.len() > limit {
            surplus += chunk.len();
            if surplus > DRAIN_BYTES {
                break;
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if surplus > 0 {
        return Err(ApiError::BodyTooLarge { limit });
    }
    Ok(bytes)
}

/// Reads one JSON object. The message of a failure names the key and the position.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    match bytes.trim_ascii_start().first() {
        None => return refuse("the body is empty; expected a JSON object"),
        // A list would pass for an object with its values in the order of the fields.
        Some(&first) if first != b'{' => return refuse("the body is not a JSON object"),
        Some(_) => {}
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let fault = describe(error.inner());
        ApiError::InvalidBody(if path == "." {
            fault
        } else {
            format!("`{}`: {fault}", cut(&path))
        })
    })?;
    reader
        .end()
        .map_err(|error| ApiError::InvalidBody(describe(&error)))?;
    Ok(value)
}

fn refuse<T>(what: &str) -> Result<T, ApiError> {
    Err(ApiError::InvalidBody(what.to_owned()))
}

/// The library's message with its position, but only the beginning of what it quotes.
fn describe(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let position = format!(" at line {line} column {column}");
    let text = text.strip_suffix(&position).unwrap_or(&text);
    format!("{} (line {line}, column {column})", cut(text))
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(ECHO_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
