//! Names of registries and mirrors, as Docker writes them.

use axum::http::Uri;

use crate::config::Cidr;

/// What is wrong with the URL of a mirror, if anything is.
pub(super) fn mirror(text: &str) -> Result<(), String> {
    let bad = |what: &str| {
        Err(format!(
            "is `{text}`, which {what}, such as \"https://mirror.example.org\""
        ))
    };
    if text.contains('@') {
        // The value stays out of the message: there may be a password in it.
        return Err(
            "has a user or password in it, and Docker takes none for mirrors; name it as in \
             \"https://mirror.example.org\""
                .to_owned(),
        );
    }
    let Ok(url) = text.parse::<Uri>() else {
        return bad("is no URL");
    };
    let (Some("http" | "https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return bad("is no URL that begins with https:// or http://");
    };
    if registry(authority.as_str()).is_err() {
        return bad("does not name a host");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return bad("has a path: BuildKit would leave that out. Name scheme, host and port only");
    }
    Ok(())
}

/// What is wrong with the name of a registry, if anything is: `host` or `host:port`.
pub(super) fn registry(text: &str) -> Result<(), String> {
    if text.contains('@') {
        return Err(
            "has a user or password in it; a registry is named as in \"registry.example.org:5000\", and \
             credentials are the client's"
                .to_owned(),
        );
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let letter =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let good = !host.is_empty()
        && host.bytes().all(letter)
        && host
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if good {
        Ok(())
    } else {
        Err(format!(
            "is `{text}`; a registry is named by its host in lower case and its port, without a scheme, such as \
             \"registry.example.org:5000\""
        ))
    }
}

/// The same, where ranges of addresses are taken as well.
pub(super) fn registry_or_range(text: &str) -> Result<(), String> {
    if Cidr::try_from(text.to_owned()).is_ok() {
        return Ok(());
    }
    registry(text)
        .map_err(|what| format!("{what}, or by a range of addresses such as \"10.1.2.0/24\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors() {
        for good in [
            "https://mirror.example.org",
            "https://mirror.example.org/",
            "http://10.1.2.3:5000",
        ] {
            mirror(good).unwrap();
        }
        for bad in [
            "",
            "mirror.example.org",
            "ftp://mirror.example.org",
            "https://",
            "https://user:secret@mirror.example.org",
            // Also where it is no URL at all.
            "user:secret@mirror.example.org",
            "ftp://user:secret@mirror.example.org",
            "https://user:secret word@mirror.example.org",
            "https://mirror.example.org/path",
            "https://mirror.example.org/?query",
            "https://mirror_example",
        ] {
            let what = mirror(bad).unwrap_err();
            assert!(!what.contains("secret"), "{what}");
        }
    }

    #[test]
    fn registries() {
        for good in ["localhost", "registry.lan:5000", "10.1.2.3:443", "a-b.c"] {
            registry(good).unwrap();
        }
        for bad in [
            "",
            "..",
            "a/b",
            "https://a",
            "A.b",
            "a:0",
            "a:b",
            "a:",
            ":5000",
            "-a",
            "a-.b",
            "a..b",
        ] {
            assert!(registry(bad).is_err(), "{bad}");
        }
        for bad in ["user:secret@registry.lan", "user:secret@registry.lan:5000"] {
            let what = registry_or_range(bad).unwrap_err();
            assert!(!what.contains("secret"), "{what}");
        }
        registry_or_range("10.1.2.0/24").unwrap();
        assert!(registry_or_range("10.1.2.1/24").is_err());
    }
}
