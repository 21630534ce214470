//! Until when the authorities of the site are good. One that has ended is no fault of the configuration: everything
//! else works, and who starts a server again that has served for years is not to be kept from it.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::SiteConfig;

/// A new certificate has to reach whoever configures the server.
const WARN_BEFORE: Duration = Duration::days(14);

/// What comes of an authority that has ended.
pub const CONSEQUENCE: &str = "machines do not believe what it signed any more from then on: put the site's new \
                               certificate beside it in time, and start the server again";

/// A file of authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Where it is.
    pub file: PathBuf,
    /// When the first of its certificates ends.
    pub ends: OffsetDateTime,
}

impl Ending {
    /// Which file, and until when.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{}, until {}", self.file.display(), self.ends.date())
    }

    /// What is to be told about it, if anything.
    #[must_use]
    pub fn trouble(&self, now: OffsetDateTime) -> Option<String> {
        let left = self.ends - now;
        if left > WARN_BEFORE {
            return None;
        }
        let when = if left <= Duration::ZERO {
            "has ended"
        } else {
            "ends soon"
        };
        Some(format!("{when}: {}", self.words()))
    }
}

impl SiteConfig {
    /// Reads the files of the authorities. What cannot be read is a fault of the configuration, and told as that.
    #[must_use]
    pub fn endings(&self) -> Vec<Ending> {
        let ending = |file: &PathBuf| {
            let certificates = super::certificates::read(file).ok()?;
            let ends = certificates.iter().filter_map(|pem| ends(pem)).min()?;
            let file = file.clone();
            Some(Ending { file, ends })
        };
        self.ca.iter().filter_map(|ca| ending(&ca.file)).collect()
    }
}

fn ends(pem: &str) -> Option<OffsetDateTime> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(parsed.validity().not_after.to_datetime())
}

#[cfg(test)]
mod tests {
    use super::super::CaConfig;
    use super::*;

    /// An authority that ends so many days after 1970 began.
    fn authority(days: i64) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = OffsetDateTime::UNIX_EPOCH;
        params.not_after = OffsetDateTime::UNIX_EPOCH + Duration::days(days);
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn the_first_certificate_of_a_file_that_ends_is_told_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let registries = Vec::new();
            CaConfig { file, registries }
        };
        let site = SiteConfig {
            ca: vec![
                file("good", authority(115)),
                file("two", format!("{}{}", authority(900), authority(114))),
                file("old", authority(99)),
                CaConfig {
                    file: folder.path().join("none"),
                    registries: Vec::new(),
                },
            ],
            ..SiteConfig::default()
        };
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(100);
        let told = site.endings();
        assert_eq!(told.len(), 3);
        let told: Vec<_> = told.iter().filter_map(|it| it.trouble(now)).collect();
        let [soon, old] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(soon.starts_with("ends soon: ") && soon.ends_with("/two, until 1970-04-25"));
        assert!(old.starts_with("has ended: ") && old.ends_with("/old, until 1970-04-10"));
    }
}
