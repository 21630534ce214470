//! What of the environment counts: the site's proxies, which are named there for all programs.

/// The values of `HTTPS_PROXY` and `NO_PROXY`; the names in small letters come first, as other programs have it.
#[must_use]
pub fn proxy_environment() -> (Option<String>, Option<String>) {
    let of = |lower, upper| variable(lower).or_else(|| variable(upper));
    (of("https_proxy", "HTTPS_PROXY"), of("no_proxy", "NO_PROXY"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is where configuration is loaded"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
