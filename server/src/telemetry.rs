//! Logging: to standard error, as text for people or as JSON for machines.
//!
//! Nothing that is secret is ever given to a log: tokens, keys and certificate bodies have types
//! whose `Debug` does not show them, or are not passed to log macros at all.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::config::{LogConfig, LogFormat};

/// Logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("the log filter cannot be understood")]
    Filter(#[from] ParseError),
    /// This process logs already.
    #[error("logging is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Reads a filter such as `info,remote_dockerd::relay=debug`.
///
/// # Errors
/// When it is none. Unlike the library's own lenient reading, which drops what it cannot read.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Sends this process's log to standard error from now on.
///
/// # Errors
/// When the filter cannot be read, or this was called before.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let colors = std::io::stderr().is_terminal();
    let subscriber = subscriber(config, std::io::stderr, colors)?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

/// What [`init`] installs, with any writer.
///
/// # Errors
/// When the filter cannot be read.
pub fn subscriber<W>(
    config: &LogConfig,
    writer: W,
    colors: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(&config.filter)?;
    Ok(Registry::default()
        .with(filter)
        .with(format(config.format, writer, colors)))
}

fn format<S, W>(format: LogFormat, writer: W, colors: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(colors).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let lines = Lines::default();
        let config = LogConfig {
            filter: filter.to_owned(),
            format,
        };
        let writer = lines.clone();
        let subscriber = subscriber(&config, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = "r-1");
            let _entered = span.enter();
            tracing::info!(duration_ms = 12, "lease l-1 is active");
            tracing::debug!("too much");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_reads_alone_and_json_carries_the_fields() {
        let text = logged(LogFormat::Text, "info");
        assert!(
            text.contains("lease l-1 is active duration_ms=12"),
            "{text}"
        );
        assert!(text.contains("request_id=\"r-1\""), "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains("too much"),
            "{text}"
        );

        let json: serde_json::Value =
            serde_json::from_str(&logged(LogFormat::Json, "info")).unwrap();
        assert_eq!(json["message"], "lease l-1 is active");
        assert_eq!(json["duration_ms"], 12);
        assert_eq!(json["span"]["request_id"], "r-1");
    }

    #[test]
    fn a_filter_chooses_and_rubbish_is_refused() {
        assert_eq!(logged(LogFormat::Text, "warn"), "");
        assert!(logged(LogFormat::Text, "debug").contains("too much"));
        assert!(parse_filter("info,remote_dockerd::relay=debug").is_ok());
        assert!(parse_filter("info,=nonsense=loud").is_err());
        assert!(parse_filter("remote_dockerd=loud").is_err());
    }
}
