//! A leased machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use remote_docker_api::{CreateLease, Lease, LeaseId};

use crate::docker::Docker;
use crate::https::{self, Credentials};

/// A client key and the request for its certificate.
#[derive(Debug)]
pub struct ClientKey {
    pair: KeyPair,
    /// The request, PEM.
    pub csr_pem: String,
}

impl ClientKey {
    /// A new P-256 key.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn generate() -> Self {
        let pair = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default()
            .serialize_request(&pair)
            .and_then(|csr| csr.pem())
            .expect("a certificate request");
        Self { pair, csr_pem: csr }
    }

    /// The key, PEM.
    pub(crate) fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A request for a lease, waiting two minutes for the machine.
    #[must_use]
    pub fn request(&self) -> CreateLease {
        CreateLease {
            ttl_s: Some(600),
            wait_s: Some(120),
            client_csr_pem: self.csr_pem.clone(),
            ..CreateLease::default()
        }
    }
}

/// Asks the daemon of an active lease whether it answers, over TLS: all that is needed besides is what the server's
/// answer has in it.
///
/// # Panics
/// When it does not, or the lease is not active.
pub fn ping(lease: &Lease, key: &ClientKey) {
    let endpoint = lease.docker.as_ref().expect("an active lease");
    let place = endpoint.host.strip_prefix("tcp://");
    let place = place.and_then(|place| place.parse().ok());
    let credentials = Credentials {
        ca: &endpoint.ca_pem,
        certificate: &endpoint.cert_pem,
        key: &key.pem(),
    };
    let status = https::get(place.expect("tcp://IP:PORT"), credentials, "/_ping");
    assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
}

/// An active lease and the files to use it with.
#[derive(Debug)]
pub struct Machine {
    /// The lease, as the server answered it.
    pub lease: Lease,
    certificates: PathBuf,
    docker: Docker,
}

impl Machine {
    /// Writes the TLS material of an active lease below `folder`.
    ///
    /// # Panics
    /// When the lease is not active.
    #[must_use]
    pub fn new(lease: Lease, key: &ClientKey, folder: &Path, docker: &Docker) -> Self {
        let endpoint = lease.docker.as_ref();
        let endpoint = endpoint.unwrap_or_else(|| panic!("no Docker endpoint: {lease:?}"));
        let certificates = folder.join(lease.id.to_string());
        std::fs::create_dir(&certificates).expect("a folder for certificates");
        let write = |name: &str, content: &str| {
            let path = certificates.join(name);
            std::fs::write(&path, content).expect("a certificate's file");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its mode");
        };
        write("ca.pem", &endpoint.ca_pem);
        write("cert.pem", &endpoint.cert_pem);
        write("key.pem", &key.pair.serialize_pem());
        let docker = docker.at(&endpoint.host, &certificates);
        Self {
            lease,
            certificates,
            docker,
        }
    }

    /// Its lease's id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// The docker CLI, pointed at it.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Folder of `ca.pem`, `cert.pem` and `key.pem`.
    #[must_use]
    pub fn certificates(&self) -> &Path {
        &self.certificates
    }

    /// `host:port` of the Docker API.
    ///
    /// # Panics
    /// Never: an active lease has it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        let host = &self.lease.docker.as_ref().expect("an endpoint").host;
        host.strip_prefix("tcp://").expect("a tcp:// address")
    }
}
