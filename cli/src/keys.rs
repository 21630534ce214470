//! The client's key, its certificate request, and the check of what the server made of it.

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use remote_docker_api::DockerEndpoint;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A chain longer than this is no certificate authority of one machine.
const MAX_CERTIFICATES: usize = 8;

/// A private key that never leaves this side, and the request for its certificate.
pub(crate) struct ClientKey {
    pair: KeyPair,
    csr_pem: String,
}

/// The key's request or the server's certificates are no good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("cannot make a key and its certificate request")]
    Generate(#[from] rcgen::Error),
    #[error("the server's {0} is not a certificate in PEM")]
    NotACertificate(&'static str),
    #[error("the server's certificate is not for the key that was made here")]
    OtherKey,
}

/// Certificates from the server, read and written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// Content of `ca.pem`.
    pub(crate) ca_pem: String,
    /// Content of `cert.pem`.
    pub(crate) cert_pem: String,
}

impl ClientKey {
    /// Makes an ECDSA P-256 key and a PKCS #10 request signed with it.
    ///
    /// # Errors
    /// The system's random source fails.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "setup-remote-docker");
        let csr_pem = lf(params.serialize_request(&pair)?.pem()?);
        Ok(Self { pair, csr_pem })
    }

    /// The request (PEM) that goes to the server.
    pub(crate) fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The private key (PKCS #8 PEM) that goes to `key.pem` and nowhere else.
    pub(crate) fn key_pem(&self) -> String {
        lf(self.pair.serialize_pem())
    }

    /// Checks what the server sent: certificates and nothing else, the client's one for this key.
    /// They are encoded anew, so that no byte beside them reaches the disk.
    ///
    /// # Errors
    /// Says which of the two is wrong.
    pub(crate) fn accept(&self, endpoint: &DockerEndpoint) -> Result<Certificates, KeyError> {
        let ca = certificates(&endpoint.ca_pem).ok_or(KeyError::NotACertificate("ca_pem"))?;
        let own = certificates(&endpoint.cert_pem).ok_or(KeyError::NotACertificate("cert_pem"))?;
        let leaf = own.first().ok_or(KeyError::NotACertificate("cert_pem"))?;
        let (_, leaf) = X509Certificate::from_der(leaf.contents())
            .map_err(|_| KeyError::NotACertificate("cert_pem"))?;
        if leaf.public_key().subject_public_key.data.as_ref() != self.pair.public_key_raw() {
            return Err(KeyError::OtherKey);
        }
        Ok(Certificates {
            ca_pem: encode(&ca),
            cert_pem: encode(&own),
        })
    }
}

fn certificates(text: &str) -> Option<Vec<Pem>> {
    let blocks = pem::parse_many(text).ok()?;
    let sound = |block: &Pem| {
        block.tag() == "CERTIFICATE"
            && X509Certificate::from_der(block.contents()).is_ok_and(|(rest, _)| rest.is_empty())
    };
    let count_fits = (1..=MAX_CERTIFICATES).contains(&blocks.len());
    if !count_fits || !blocks.iter().all(sound) {
        return None;
    }
    // Headers inside a block are dropped: they are the sender's free text.
    Some(
        blocks
            .into_iter()
            .map(|block| Pem::new("CERTIFICATE", block.into_contents()))
            .collect(),
    )
}

fn encode(blocks: &[Pem]) -> String {
    blocks
        .iter()
        .map(|block| pem::encode_config(block, EncodeConfig::new().set_line_ending(LineEnding::LF)))
        .collect()
}

fn lf(pem: String) -> String {
    pem.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Signs as the server does; `public` is whose key goes into the certificate.
    fn endpoint_for(csr_pem: &str) -> DockerEndpoint {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let request = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        DockerEndpoint {
            host: "tcp://127.0.0.1:1".to_owned(),
            ca_pem,
            cert_pem: request.signed_by(&issuer).unwrap().pem(),
        }
    }

    #[test]
    fn a_certificate_for_this_key_is_accepted() {
        let key = ClientKey::generate().unwrap();
        let accepted = key.accept(&endpoint_for(key.csr_pem())).unwrap();
        assert!(accepted.ca_pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert!(accepted.cert_pem.ends_with("-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn text_around_the_certificates_does_not_reach_the_disk() {
        let key = ClientKey::generate().unwrap();
        let mut endpoint = endpoint_for(key.csr_pem());
        let plain = key.accept(&endpoint).unwrap();
        endpoint.ca_pem = format!("\x1b[2J; rm -rf /\n{}\ntrailer", endpoint.ca_pem);
        assert_eq!(key.accept(&endpoint).unwrap(), plain);
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let key = ClientKey::generate().unwrap();
        let other = ClientKey::generate().unwrap();
        let error = key.accept(&endpoint_for(other.csr_pem())).unwrap_err();
        assert!(matches!(error, KeyError::OtherKey), "{error}");
    }

    #[test]
    fn rubbish_is_refused() {
        let key = ClientKey::generate().unwrap();
        let good = endpoint_for(key.csr_pem());
        let swapped = key.key_pem();
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for rubbish in ["", "x", hollow, &swapped, &good.ca_pem.repeat(9)] {
            let ca = DockerEndpoint {
                ca_pem: rubbish.to_owned(),
                ..good.clone()
            };
            assert!(key.accept(&ca).is_err(), "{rubbish}");
            let cert = DockerEndpoint {
                cert_pem: rubbish.to_owned(),
                ..good.clone()
            };
            assert!(key.accept(&cert).is_err(), "{rubbish}");
        }
    }

    #[test]
    fn openssl_verifies_the_request_and_reads_the_key() {
        let key = ClientKey::generate().unwrap();
        let openssl = |args: &[&str], input: &str| {
            let mut child = Command::new("openssl")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        };
        let (ok, text) = openssl(&["req", "-verify", "-noout", "-text"], key.csr_pem());
        assert!(ok && text.contains("verify OK"), "{text}");
        assert!(text.contains("prime256v1"), "{text}");
        assert!(text.contains("ecdsa-with-SHA256"), "{text}");
        let (_, of_request) = openssl(&["req", "-pubkey", "-noout"], key.csr_pem());
        let (ok, of_key) = openssl(&["pkey", "-pubout"], &key.key_pem());
        assert!(ok);
        assert_eq!(of_request, of_key);
    }
}
