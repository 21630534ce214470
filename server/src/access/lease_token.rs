//! A credential for one lease and nothing else, which whoever makes the lease is given with it.
//!
//! What a client showed to get a machine may be over long before its work is: tokens that CI systems sign for a
//! job are good for minutes. With this one it can keep its lease, look at it and give it back, as long as
//! the lease is known; and whoever finds it finds no way to another machine.
//!
//! Nothing is stored for it: it is the lease's id and project with a code (HMAC-SHA256) that only the holder of this
//! server's key can make. So a request that is sent twice is answered with the same one.

use std::fmt;
use std::path::Path;

use remote_docker_api::LeaseId;
use ring::hmac;

use super::secret::hex;
use crate::clock::random_bytes;
use crate::private_file;

/// What it begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "rdl_";

/// Makes credentials of leases, and knows them again.
pub struct LeaseTokens(hmac::Key);

impl LeaseTokens {
    /// With the key in this file, or a new one where there is none that could be used: then holders of leases
    /// need their other credential.
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some((text, mode)) = private_file::read(path)? {
            let text = text.trim();
            if mode & 0o077 == 0 && text.len() == 64 {
                return Ok(Self::with_key(text.as_bytes()));
            }
            tracing::warn!(
                "{} was open to others or damaged: a new key is drawn, and the credentials of leases that there \
                 are open nothing any more",
                path.display()
            );
        }
        let bits: [u8; 32] = random_bytes().map_err(std::io::Error::other)?;
        let text = hex(&bits);
        private_file::write(path, &format!("{text}\n"), 0o600)?;
        Ok(Self::with_key(text.as_bytes()))
    }

    /// With this key.
    #[must_use]
    pub fn with_key(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The credential of a lease of this project.
    #[must_use]
    pub fn token(&self, lease: LeaseId, project: &str) -> String {
        let code = hmac::sign(&self.0, signed(&lease.to_string(), project).as_bytes());
        format!("{PREFIX}{lease}.{}.{project}", hex(code.as_ref()))
    }

    /// The lease and the project that such a credential is of; nothing if it is none of this server's.
    #[must_use]
    pub(super) fn read(&self, token: &[u8]) -> Option<(LeaseId, String)> {
        let rest = std::str::from_utf8(token).ok()?.strip_prefix(PREFIX)?;
        let (lease, rest) = rest.split_once('.')?;
        let (code, project) = rest.split_once('.')?;
        let code = bytes(code)?;
        // It takes the same time however much of the code is right.
        hmac::verify(&self.0, signed(lease, project).as_bytes(), &code).ok()?;
        Some((lease.parse().ok()?, project.to_owned()))
    }
}

/// What the code is made from. An id has no line end, so that this can be read in one way only.
fn signed(lease: &str, project: &str) -> String {
    format!("{lease}\n{project}")
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect()
}

impl fmt::Debug for LeaseTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseTokens(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lease(bits: u64) -> LeaseId {
        LeaseId::from_bits(bits)
    }

    #[test]
    fn a_credential_is_of_one_lease_of_one_project_and_one_server() {
        let tokens = LeaseTokens::with_key(&[7; 32]);
        let token = tokens.token(lease(7), "team.a_b-c");
        let read = tokens.read(token.as_bytes());
        assert_eq!(read, Some((lease(7), "team.a_b-c".to_owned())));
        assert_eq!(tokens.token(lease(7), "team.a_b-c"), token);
        assert_eq!(LeaseTokens::with_key(&[8; 32]).read(token.as_bytes()), None);
        let code = token.split('.').nth(1).unwrap();
        for forged in [
            token.replace(&lease(7).to_string(), &lease(8).to_string()),
            token.replace("team.a", "team.b"),
            token.replace("_b-c", "_b-c2"),
            token.replace(code, ""),
            token.replace(code, &"0".repeat(64)),
            token.replace(code, &code[..62]),
            token.replace("rdl_", "rdt_"),
            format!("{token}\n"),
            String::new(),
            "rdl_".to_owned(),
            "rdl_é.é.é".to_owned(),
        ] {
            assert_eq!(tokens.read(forged.as_bytes()), None, "{forged}");
        }
    }

    #[test]
    fn the_key_is_kept_and_one_that_others_saw_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease-key");
        let token = |tokens: LeaseTokens| tokens.token(lease(1), "web");
        let first = token(LeaseTokens::open(&path).unwrap());
        let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(token(LeaseTokens::open(&path).unwrap()), first);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let second = token(LeaseTokens::open(&path).unwrap());
        assert_ne!(second, first);
        std::fs::write(&path, "short").unwrap();
        assert_ne!(token(LeaseTokens::open(&path).unwrap()), second);
    }
}
