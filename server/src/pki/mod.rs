//! Certificates: one authority for each VM, and the requests it signs; and the one behind the API's own.
//!
//! Private keys stay where they are made. The guest and the client each make their own and send a
//! request (PKCS #10); the authority's key is made here and never leaves the server's memory. Of a
//! request only the public key is taken: names, usages and validity are the server's decision.
//!
//! This room reads no clock and no disk; time comes in as an argument.

mod api_ca;
mod ca;
mod csr;

#[cfg(test)]
mod tests;

pub use api_ca::{ApiCa, ApiCertificate};
pub use ca::{PkiError, SanName, VmCa};
pub use csr::{CheckedCsr, CsrError, KeyKind, MAX_CSR_BYTES, check_csr};
