//! Certificates of an authority of this server's own.

use std::path::Path;

use time::{Duration, OffsetDateTime};

use super::{Material, TlsError, material};
use crate::pki::{ApiCa, SanName};
use crate::private_file;
use crate::words::in_one_line;

/// The authority's certificate, in the state folder: what clients are given.
pub const CA_FILE: &str = "api-ca.pem";
/// The authority's key, beside it.
pub const CA_KEY_FILE: &str = "api-ca-key.pem";

/// A certificate is renewed when less than this is left of its 90 days.
const RENEW_BEFORE: Duration = Duration::days(30);
/// The end of the authority is told of so long before: each client must be given a new one.
const WARN_BEFORE: Duration = Duration::days(180);

/// The authority, and what of it is shown at present.
#[derive(Debug)]
pub(super) struct Own {
    ca: ApiCa,
    names: Vec<SanName>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Own {
    /// Reads the authority in `folder`, or makes one, and a certificate below it. The caller holds the lock
    /// on the folder, so nobody else makes one at the same time.
    pub(super) fn open(
        folder: &Path,
        names: Vec<SanName>,
        now: OffsetDateTime,
    ) -> Result<(Self, Material), TlsError> {
        let (cert, key) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
        let ca = match read(&cert)? {
            Some((cert_pem, _)) => load(&cert, &cert_pem, &key)?,
            // A key without a certificate is what is left of a start that was cut short.
            None => make(&cert, &key, now)?,
        };
        if now >= ca.not_after() {
            let at = ca.not_after();
            return Err(TlsError::Ended { path: cert, at });
        }
        if ca.not_after() - now < WARN_BEFORE {
            tracing::warn!(
                "the API's authority {} ends at {}: plan for a new one; delete it and its key, start the \
                 server again, and give the new certificate to all clients",
                cert.display(),
                ca.not_after()
            );
        }
        let mut own = Self {
            ca,
            names,
            not_before: now,
            not_after: now,
        };
        let material = own.issue(now)?;
        Ok((own, material))
    }

    /// Makes a new certificate if the one there ends soon, or the host's clock was set to before it begins.
    pub(super) fn look(&mut self, now: OffsetDateTime) -> Result<Option<Material>, TlsError> {
        let renew_at = (self.not_after - RENEW_BEFORE).min(self.ca.not_after());
        let is_last = self.not_after == self.ca.not_after();
        if (now >= renew_at && !is_last) || now < self.not_before {
            self.issue(now).map(Some)
        } else {
            Ok(None)
        }
    }

    fn issue(&mut self, now: OffsetDateTime) -> Result<Material, TlsError> {
        let made = self.ca.issue(&self.names, now)?;
        let material = material(made.chain_pem.as_bytes(), made.key_pem.as_bytes())
            .map_err(rustls::Error::General)?;
        (self.not_before, self.not_after) = (made.not_before, made.not_after);
        Ok(material)
    }
}

pub(super) fn load(cert: &Path, cert_pem: &str, key: &Path) -> Result<ApiCa, TlsError> {
    let Some((key_pem, mode)) = read(key)? else {
        return Err(TlsError::NoKey {
            cert: cert.to_owned(),
            key: key.to_owned(),
        });
    };
    if mode & 0o077 != 0 {
        return Err(TlsError::TooOpen {
            path: key.to_owned(),
            mode,
        });
    }
    ApiCa::from_pem(cert_pem, &key_pem).map_err(|error| TlsError::Malformed {
        cert: cert.to_owned(),
        key: key.to_owned(),
        what: in_one_line(&error),
    })
}

fn make(cert: &Path, key: &Path, now: OffsetDateTime) -> Result<ApiCa, TlsError> {
    let (ca, key_pem) = ApiCa::generate(now)?;
    // The certificate last: it is the sign that both are there.
    write(key, &key_pem, 0o600)?;
    write(cert, ca.cert_pem(), 0o644)?;
    tracing::info!(
        "made an authority for the API's certificates; clients are given {} (`remote-dockerd ca` prints it)",
        cert.display()
    );
    Ok(ca)
}

pub(super) fn read(path: &Path) -> Result<Option<(String, u32)>, TlsError> {
    private_file::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    private_file::write(path, text, mode).map_err(|source| TlsError::NotWritable {
        path: path.to_owned(),
        source,
    })
}
