//! An authority that nobody but the site trusts.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

/// An authority, with its certificate in a file.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When there is no randomness, or no file can be written.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with(name, CertificateParams::default())
    }

    /// One that has ended long ago.
    ///
    /// # Panics
    /// When there is no randomness, or no file can be written.
    #[must_use]
    pub fn ended(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::UNIX_EPOCH;
        params.not_after = OffsetDateTime::UNIX_EPOCH + Duration::days(1);
        Self::with(name, params)
    }

    fn with(name: &str, mut params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let own = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), own.pem()).expect("a file");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// The file of its certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Writes a certificate for these names and addresses, and its key, into a folder; answers the two
    /// files.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn certify(&self, names: &[&str], folder: &Path) -> (PathBuf, PathBuf) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&files.0, signed.pem()).expect("a file");
        fs::write(&files.1, key.serialize_pem()).expect("a file");
        files
    }
}
