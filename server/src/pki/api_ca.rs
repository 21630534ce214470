//! The authority behind the API's own certificate. It outlives servers, for clients pin it: they are handed
//! its certificate once and trust nothing else.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::ca::{PkiError, SanName, params, san};

/// How long the authority lasts. Every client has to be handed the next one, so that is to be seldom.
const CA_LIFE: Duration = Duration::days(3650);
/// How long a certificate of the API lasts: it is renewed by itself long before.
const LEAF_LIFE: Duration = Duration::days(90);

/// The authority of one server's API.
pub struct ApiCa {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    not_after: OffsetDateTime,
}

/// A certificate of the API and the key that goes with it.
pub struct ApiCertificate {
    /// The certificate and its authority's (PEM).
    pub chain_pem: String,
    /// The private key (PEM). Never to be logged.
    pub key_pem: String,
    /// When it begins.
    pub not_before: OffsetDateTime,
    /// When it ends.
    pub not_after: OffsetDateTime,
}

impl ApiCa {
    /// Makes an authority with a fresh key (ECDSA P-256), valid for ten years from `now`; answers its
    /// private key (PEM) as well, which is to be kept where nobody else can read it.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate(now: OffsetDateTime) -> Result<(Self, String), PkiError> {
        let not_after = now.saturating_add(CA_LIFE);
        let serial: [u8; 4] = crate::clock::random_bytes()?;
        // Verifiers look authorities up by name: two servers' must not have the same.
        let name = format!("remote-dockerd API {:08x}", u32::from_be_bytes(serial));
        let mut params = params(&name, now, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let cert_pem = params.self_signed(&key)?.pem();
        let ca = Self {
            issuer: Issuer::new(params, key),
            cert_pem,
            not_after,
        };
        Ok((ca, key_pem))
    }

    /// The authority in these files.
    ///
    /// # Errors
    /// When they hold none, or the key is another one's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)?;
        let (_, block) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes())
            .map_err(|_| PkiError::Authority("it is not a certificate in PEM form"))?;
        let cert = block
            .parse_x509()
            .map_err(|_| PkiError::Authority("it is not a certificate in PEM form"))?;
        if !cert.is_ca() {
            return Err(PkiError::Authority("it is not an authority's certificate"));
        }
        if cert.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(PkiError::Authority("the key is not that certificate's"));
        }
        let not_after = cert.validity().not_after.to_datetime();
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(cert_pem, key)?,
            cert_pem: cert_pem.to_owned(),
            not_after,
        })
    }

    /// Its certificate (PEM): what clients are handed.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Makes a certificate for a server that is known under `names`, with a fresh key, valid for 90 days
    /// from `now` but no longer than the authority.
    ///
    /// # Errors
    /// When a name is not a name, the authority has ended, or the system gives no random numbers.
    pub fn issue(
        &self,
        names: &[SanName],
        now: OffsetDateTime,
    ) -> Result<ApiCertificate, PkiError> {
        let until = now.saturating_add(LEAF_LIFE).min(self.not_after);
        let mut params: CertificateParams = params("remote-dockerd", now, until)?;
        params.subject_alt_names = names.iter().map(san).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(ApiCertificate {
            chain_pem: format!("{}{}", cert.pem(), self.cert_pem),
            key_pem: key.serialize_pem(),
            not_before: params.not_before,
            not_after: until,
        })
    }
}

impl fmt::Debug for ApiCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of every log.
        f.debug_struct("ApiCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ApiCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    #[test]
    fn an_authority_is_read_back_and_goes_on_signing() {
        let (ca, key) = ApiCa::generate(NOW).unwrap();
        let again = ApiCa::from_pem(ca.cert_pem(), &key).unwrap();
        assert_eq!(again.cert_pem(), ca.cert_pem());
        assert_eq!(again.not_after(), ca.not_after());
        let names = [SanName::from_host("build.example")];
        for ca in [ca, again] {
            let made = ca.issue(&names, NOW).unwrap();
            assert_eq!(made.not_after, NOW + LEAF_LIFE);
            let mut pems = x509_parser::pem::Pem::iter_from_buffer(made.chain_pem.as_bytes());
            let (leaf, issuer) = (pems.next().unwrap().unwrap(), pems.next().unwrap().unwrap());
            let (leaf, issuer) = (leaf.parse_x509().unwrap(), issuer.parse_x509().unwrap());
            leaf.verify_signature(Some(issuer.public_key())).unwrap();
            assert_eq!(leaf.issuer(), issuer.subject());
            assert!(!leaf.is_ca());
        }
    }

    #[test]
    fn a_certificate_does_not_outlive_its_authority() {
        let (ca, _) = ApiCa::generate(NOW).unwrap();
        let late = ca.not_after() - Duration::DAY;
        let made = ca.issue(&[], late).unwrap();
        assert_eq!(made.not_after, ca.not_after());
        assert!(matches!(
            ca.issue(&[], ca.not_after()),
            Err(PkiError::NoTimeLeft { .. })
        ));
    }

    #[test]
    fn files_that_are_no_authority_are_refused() {
        let (ca, key) = ApiCa::generate(NOW).unwrap();
        let (_, other_key) = ApiCa::generate(NOW).unwrap();
        let leaf = ca.issue(&[], NOW).unwrap();
        for (cert, key) in [
            (ca.cert_pem(), other_key.as_str()),
            (ca.cert_pem(), ""),
            ("", key.as_str()),
            (leaf.chain_pem.as_str(), leaf.key_pem.as_str()),
        ] {
            assert!(ApiCa::from_pem(cert, key).is_err());
        }
    }
}
