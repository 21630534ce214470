//! Keys that must differ between clones: made after the copy, never before.

use anyhow::Context;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use zeroize::Zeroizing;

/// A TLS key, which never leaves this process, and the request for its certificate.
pub(crate) struct TlsIdentity {
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) csr_pem: String,
}

/// Makes a TLS key.
///
/// # Errors
/// The random number generator's.
pub(crate) fn tls_identity(hostname: &str) -> anyhow::Result<TlsIdentity> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a TLS key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    let csr = params.serialize_request(&pair).and_then(|csr| csr.pem());
    Ok(TlsIdentity {
        csr_pem: csr.context("cannot make a certificate request")?,
        key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
    })
}

/// An SSH host key in OpenSSH's formats.
pub(crate) struct SshHostKey {
    /// The file that sshd reads.
    pub(crate) private: Zeroizing<String>,
    /// One line, without a line break.
    pub(crate) public: String,
}

/// Makes an SSH host key.
///
/// # Errors
/// The random number generator's.
pub(crate) fn ssh_host_key(hostname: &str) -> anyhow::Result<SshHostKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("no random bytes for the SSH host key")?;
    let make = || -> Result<SshHostKey, ssh_key::Error> {
        let pair = Ed25519Keypair::from_seed(&seed);
        let key = PrivateKey::new(pair.into(), format!("root@{hostname}"))?;
        let private = key.to_openssh(ssh_key::LineEnding::LF)?;
        Ok(SshHostKey {
            private,
            public: key.public_key().to_openssh()?,
        })
    };
    make().context("cannot make an SSH host key")
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateSigningRequestParams;

    use super::*;

    #[test]
    fn the_request_names_the_host_and_proves_its_own_key() {
        let (one, two) = (tls_identity("vm-1").unwrap(), tls_identity("vm-1").unwrap());
        assert_ne!(one.key.secret_der(), two.key.secret_der());
        let csr = CertificateSigningRequestParams::from_pem(&one.csr_pem).unwrap();
        let name = csr
            .params
            .distinguished_name
            .get(&DnType::CommonName)
            .unwrap();
        assert_eq!(name, &"vm-1".into());
        assert!(csr.params.subject_alt_names.is_empty());
    }

    #[test]
    fn ssh_host_keys_differ_and_their_halves_belong_together() {
        let (one, two) = (ssh_host_key("vm-1").unwrap(), ssh_host_key("vm-1").unwrap());
        assert_ne!(one.public, two.public);
        assert!(one.public.starts_with("ssh-ed25519 ") && !one.public.contains('\n'));
        let read = PrivateKey::from_openssh(one.private.as_bytes()).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), one.public);
    }
}
