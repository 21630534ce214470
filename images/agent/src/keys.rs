//! Keys that must differ between clones: made after the copy, never before.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use ssh_key::private::{Ed25519Keypair, PrivateKey};

/// Where sshd looks for its host key.
const SSH_FOLDER: &str = "/etc/ssh";

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

/// Makes an SSH host key, writes it, and returns the public one in OpenSSH's one-line format.
///
/// # Errors
/// The random number generator's, or a file that cannot be written.
pub(crate) fn ssh_host_key(hostname: &str) -> anyhow::Result<String> {
    ssh_host_key_in(Path::new(SSH_FOLDER), hostname)
}

fn ssh_host_key_in(folder: &Path, hostname: &str) -> anyhow::Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("no random bytes for the SSH host key")?;
    let comment = format!("root@{hostname}");
    let key = PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), comment).and_then(|key| {
        Ok((
            key.to_openssh(ssh_key::LineEnding::LF)?,
            key.public_key().to_openssh()?,
        ))
    });
    let (private, public) = key.context("cannot make an SSH host key")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write(
        folder.join("ssh_host_ed25519_key"),
        private.as_bytes(),
        0o600,
    )?;
    write(
        folder.join("ssh_host_ed25519_key.pub"),
        format!("{public}\n").as_bytes(),
        0o644,
    )?;
    Ok(public)
}

/// Writes a file that did not exist with this mode before, so that it never was readable to more.
fn write(path: PathBuf, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let written = (|| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        file.write_all(bytes)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
    fn the_ssh_key_is_written_for_root_alone_and_replaces_a_former_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = ssh_host_key_in(folder.path(), "vm-1").unwrap();
        let second = ssh_host_key_in(folder.path(), "vm-1").unwrap();
        assert_ne!(first, second);
        assert!(second.starts_with("ssh-ed25519 ") && !second.contains('\n'));
        let path = folder.path().join("ssh_host_ed25519_key");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let read = PrivateKey::read_openssh_file(&path).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), second);
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(public.trim_end(), second);
    }
}
