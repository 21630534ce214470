//! What the API would show, without making anything: for whoever looks at a host before a server runs on it.

use std::net::IpAddr;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::given::Given;
use super::own::{self, CA_FILE, CA_KEY_FILE};
use super::{Origin, TlsError};
use crate::pki::SanName;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Whether it is the server's own authority, below which a certificate is made when it starts.
    pub is_own: bool,
    /// The certificate.
    pub file: PathBuf,
    /// When it begins and ends. Of the server's own authority only the end counts.
    pub validity: (OffsetDateTime, OffsetDateTime),
    /// What clients may call the server.
    pub names: Vec<SanName>,
}

/// Looks at what is to be shown; nothing if the first start is to make it.
///
/// # Errors
/// When a server would not start with it.
pub fn inspect(origin: Origin) -> Result<Option<Inspection>, TlsError> {
    match origin {
        Origin::Given { cert, key } => {
            let (_, material) = Given::open(cert.clone(), key)?;
            let leaf = material.key.cert.first();
            Ok(Some(Inspection {
                is_own: false,
                file: cert,
                validity: (material.not_before, material.not_after),
                names: leaf.map(names).unwrap_or_default(),
            }))
        }
        Origin::Own { folder, names } => {
            let (file, key) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
            let Some((pem, _)) = own::read(&file)? else {
                return Ok(None);
            };
            let ends = own::load(&file, &pem, &key)?.not_after();
            let begins = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
            let begins = begins.and_then(|der| begins_at(&der));
            Ok(Some(Inspection {
                is_own: true,
                file,
                validity: (begins.unwrap_or(OffsetDateTime::UNIX_EPOCH), ends),
                names,
            }))
        }
    }
}

fn begins_at(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_before.to_datetime())
}

/// The names that a certificate carries; it was read before.
fn names(certificate: &CertificateDer<'_>) -> Vec<SanName> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(SanName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(SanName::Ip),
        _ => None,
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::tls::Tls;

    fn origin(folder: &tempfile::TempDir) -> Origin {
        Origin::Own {
            folder: folder.path().to_owned(),
            names: vec![SanName::from_host("build.example")],
        }
    }

    #[test]
    fn looking_makes_nothing_and_tells_the_end_of_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(inspect(origin(&folder)).unwrap(), None);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let now = SystemClock.now();
        Tls::open(origin(&folder), now).unwrap();
        let seen = inspect(origin(&folder)).unwrap().unwrap();
        assert!(seen.is_own && seen.names == [SanName::from_host("build.example")]);
        let days = (seen.validity.1 - now).whole_days();
        assert!((3649..=3650).contains(&days), "{days}");
        assert!(seen.validity.0 <= now);
        std::fs::remove_file(folder.path().join(CA_KEY_FILE)).unwrap();
        assert!(matches!(
            inspect(origin(&folder)).unwrap_err(),
            TlsError::NoKey { .. }
        ));
    }

    #[test]
    fn a_certificate_of_the_operators_has_its_own_names() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["build.example", "192.0.2.7", "2001:db8::7"].map(SanName::from_host);
        let now = SystemClock.now();
        let (ca, _) = crate::pki::ApiCa::generate(now).unwrap();
        let made = ca.issue(&names, now).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&cert, made.chain_pem).unwrap();
        std::fs::write(&key, made.key_pem).unwrap();
        let given = Origin::Given {
            cert: cert.clone(),
            key: key.clone(),
        };
        let seen = inspect(given.clone()).unwrap().unwrap();
        assert_eq!((seen.is_own, &seen.file), (false, &cert));
        assert_eq!(seen.names, names);
        let days = (seen.validity.1 - now).whole_days();
        assert!((89..=90).contains(&days), "{days}");
        std::fs::write(&key, "no key").unwrap();
        inspect(given).unwrap_err();
    }
}
