use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use time::macros::datetime;

use super::*;
use crate::pki::ApiCa;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const DAY: time::Duration = time::Duration::DAY;

fn own(folder: &Path, now: OffsetDateTime) -> Result<Tls, TlsError> {
    let folder = folder.to_owned();
    let names = vec![SanName::from_host("build.example")];
    Tls::open(Origin::Own { folder, names }, now)
}

impl Tls {
    /// The certificate that is shown.
    fn leaf(&self) -> Vec<u8> {
        self.keeper.shown.get().cert[0].to_vec()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_authority_is_made_once_and_kept_for_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join(CA_FILE), folder.path().join(CA_KEY_FILE));
    own(folder.path(), NOW).unwrap();
    assert_eq!((mode(&cert), mode(&key)), (0o644, 0o600));
    let made = std::fs::read(&cert).unwrap();
    own(folder.path(), NOW + DAY).unwrap();
    assert_eq!(std::fs::read(&cert).unwrap(), made);

    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let error = own(folder.path(), NOW).unwrap_err();
    assert!(matches!(error, TlsError::TooOpen { .. }), "{error:?}");
    std::fs::remove_file(&key).unwrap();
    let error = own(folder.path(), NOW).unwrap_err();
    assert!(matches!(error, TlsError::NoKey { .. }), "{error:?}");
    std::fs::write(&key, ApiCa::generate(NOW).unwrap().1).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let error = own(folder.path(), NOW).unwrap_err();
    assert!(matches!(error, TlsError::Malformed { .. }), "{error:?}");
}

#[test]
fn a_start_that_was_cut_short_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join(CA_KEY_FILE);
    std::fs::write(&key, "half of a k").unwrap();
    own(folder.path(), NOW).unwrap();
    own(folder.path(), NOW).unwrap();
}

#[test]
fn an_authority_that_has_ended_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    own(folder.path(), NOW).unwrap();
    let error = own(folder.path(), NOW + DAY * 3650).unwrap_err();
    assert!(matches!(error, TlsError::Ended { .. }), "{error:?}");
    own(folder.path(), NOW + DAY * 3649).unwrap();
}

#[test]
fn a_certificate_is_renewed_before_it_ends_and_when_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut tls = own(folder.path(), NOW).unwrap();
    let first = tls.leaf();
    tls.keeper.look(NOW + DAY * 59);
    assert_eq!(tls.leaf(), first);
    tls.keeper.look(NOW + DAY * 61);
    let second = tls.leaf();
    assert_ne!(second, first);
    tls.keeper.look(NOW + DAY * 62);
    assert_eq!(tls.leaf(), second);
    tls.keeper.look(NOW);
    assert_ne!(tls.leaf(), second);
}

/// A certificate and its key from an authority that nobody knows.
fn pair() -> (String, String) {
    let (ca, _) = ApiCa::generate(NOW).unwrap();
    let made = ca.issue(&[], NOW).unwrap();
    (made.chain_pem, made.key_pem)
}

#[test]
fn files_that_are_replaced_are_shown_as_soon_as_they_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let put = |path: &Path, text: &str| {
        // As those do it who renew certificates: never half a file.
        let beside = folder.path().join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, path).unwrap();
    };
    let (first, second) = (pair(), pair());
    put(&cert, &first.0);
    put(&key, &first.1);
    let origin = Origin::Given {
        cert: cert.clone(),
        key: key.clone(),
    };
    let mut tls = Tls::open(origin.clone(), NOW).unwrap();
    let before = tls.leaf();

    put(&cert, &second.0);
    assert!(matches!(
        Tls::open(origin, NOW),
        Err(TlsError::Malformed { .. })
    ));
    tls.keeper.look(NOW);
    assert_eq!(tls.leaf(), before);
    assert!(tls.keeper.told.is_some());
    put(&key, &second.1);
    tls.keeper.look(NOW);
    assert_ne!(tls.leaf(), before);
    assert_eq!(tls.keeper.told, None);

    let after = tls.leaf();
    std::fs::remove_file(&key).unwrap();
    tls.keeper.look(NOW);
    assert_eq!(tls.leaf(), after);
}

#[test]
fn what_is_no_certificate_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let open = || {
        let (cert, key) = (cert.clone(), key.clone());
        Tls::open(Origin::Given { cert, key }, NOW).unwrap_err()
    };
    assert!(matches!(open(), TlsError::Unreadable { .. }));
    let good = pair();
    for (chain, private) in [
        ("", good.1.as_str()),
        (good.0.as_str(), ""),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            good.1.as_str(),
        ),
    ] {
        std::fs::write(&cert, chain).unwrap();
        std::fs::write(&key, private).unwrap();
        let error = open().to_string();
        assert!(error.contains(cert.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_certificate_that_ends_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let pair = pair();
    std::fs::write(&cert, pair.0).unwrap();
    std::fs::write(&key, pair.1).unwrap();
    let mut tls = Tls::open(Origin::Given { cert, key }, NOW).unwrap();
    assert_eq!(tls.keeper.told, None);
    tls.keeper.look(NOW + DAY * 90);
    let told = tls.keeper.told.clone().unwrap();
    assert!(told.starts_with("it ended at "), "{told}");
    tls.keeper.look(NOW - DAY * 2);
    let told = tls.keeper.told.clone().unwrap();
    assert!(told.starts_with("it begins at "), "{told}");
    tls.keeper.look(NOW);
    assert_eq!(tls.keeper.told, None);
}
