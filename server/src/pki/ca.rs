//! The authority of one VM.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::csr::{CheckedCsr, CsrError, check_csr};
use crate::clock::random_bytes;
use crate::ids::VmId;

/// How far certificates reach into the past, for peers whose clock is behind and for a host's clock
/// that was ahead and is set right: a key that is as young as its certificate has no past to protect.
const BACKDATED: Duration = Duration::DAY;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The request is refused.
    #[error("the certificate request is refused")]
    Csr(#[from] CsrError),
    /// The certificate would be over before it begins.
    #[error("the certificate would end at {until}, which is not after {now}")]
    NoTimeLeft {
        /// The present.
        now: OffsetDateTime,
        /// The end asked for, or that of the authority where it is earlier.
        until: OffsetDateTime,
    },
    /// What should be an authority is none.
    #[error("that is no authority: {0}")]
    Authority(&'static str),
    /// A server name that no certificate can carry.
    #[error("`{0}` is not a DNS name")]
    Name(String),
    /// The library refused.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// A name under which clients know a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SanName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl SanName {
    /// An address if it reads as one, else a DNS name.
    #[must_use]
    pub fn from_host(host: &str) -> Self {
        host.parse()
            .map_or_else(|_| Self::Dns(host.to_owned()), Self::Ip)
    }

    /// Whether a certificate can carry it: an address, or a host name.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Ip(_) => true,
            Self::Dns(name) => is_dns_name(name),
        }
    }
}

/// The certificate authority of one VM. Its key is nowhere but in here: when the server stops, the
/// authority is lost, and with it the ability to let anybody else into that VM.
pub struct VmCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

impl VmCa {
    /// Makes the authority of `vm` with a fresh key (ECDSA P-256), valid from a day before `now`
    /// until `until`.
    ///
    /// # Errors
    /// When `until` is not after `now` or the system gives no random numbers.
    pub fn generate(
        vm: VmId,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Self, PkiError> {
        let mut params = params(&format!("remote-dockerd authority of {vm}"), now, until)?;
        // Path length 0: it signs leaves and no further authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self {
            issuer,
            not_after: until,
        })
    }

    /// The authority's own certificate (PEM).
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs the key of `csr_pem` for a TLS server that is known under `names`; answers PEM. The
    /// certificate never outlives the authority.
    ///
    /// # Errors
    /// When the request is refused, a name is not a name, or no time is left.
    pub fn sign_server(
        &self,
        csr_pem: &str,
        names: &[SanName],
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<String, PkiError> {
        let csr = check_csr(csr_pem)?;
        let common_name = match names.first() {
            Some(SanName::Dns(name)) => name.clone(),
            Some(SanName::Ip(address)) => address.to_string(),
            None => "docker".to_owned(),
        };
        let mut params = params(&common_name, now, until.min(self.not_after))?;
        params.subject_alt_names = names.iter().map(san).collect::<Result<_, _>>()?;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth, &csr)
    }

    /// Signs the key of `csr_pem` for the TLS client `common_name`, the id of its lease; answers
    /// PEM. The certificate never outlives the authority.
    ///
    /// # Errors
    /// When the request is refused or no time is left.
    pub fn sign_client(
        &self,
        csr_pem: &str,
        common_name: &str,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<String, PkiError> {
        let csr = check_csr(csr_pem)?;
        let params = params(common_name, now, until.min(self.not_after))?;
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth, &csr)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        csr: &CheckedCsr,
    ) -> Result<String, PkiError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&csr.key, &self.issuer)?.pem())
    }
}

/// What all certificates have in common.
pub(super) fn params(
    common_name: &str,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<CertificateParams, PkiError> {
    if until <= now {
        return Err(PkiError::NoTimeLeft { now, until });
    }
    let mut subject = DistinguishedName::new();
    // RFC 5280 bounds a common name to 64 characters; verifiers look at the alternative names.
    let common_name: String = common_name.chars().take(64).collect();
    subject.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = now - BACKDATED;
    params.not_after = until;
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// 126 random bits and a fixed top: RFC 5280 wants a positive number of at most 20 bytes.
fn random_serial() -> Result<SerialNumber, getrandom::Error> {
    let mut bytes: [u8; 16] = random_bytes()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn san(name: &SanName) -> Result<SanType, PkiError> {
    match name {
        SanName::Ip(address) => Ok(SanType::IpAddress(*address)),
        SanName::Dns(name) if is_dns_name(name) => name
            .as_str()
            .try_into()
            .map(SanType::DnsName)
            .map_err(PkiError::Make),
        SanName::Dns(name) => Err(PkiError::Name(name.chars().take(64).collect())),
    }
}

/// Whether `name` is a host name: labels of letters, digits and inner hyphens.
fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl fmt::Debug for VmCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of every log.
        f.debug_struct("VmCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
