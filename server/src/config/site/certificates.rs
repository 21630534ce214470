//! Files of authorities. The one place of the configuration that reads what a path in it names: a site that
//! misspelled one is to hear of it at the start and not from its builds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use x509_parser::pem::Pem;

/// More than a guest is told.
const MAX_BYTES: u64 = 256 * 1024;

/// The certificates of a file, each alone and in the form that programs expect.
///
/// # Errors
/// Why the file is of no use, in words that follow its name.
pub(super) fn read(path: &Path) -> Result<Vec<String>, String> {
    let mut text = Vec::new();
    let opened = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let read = opened.take(MAX_BYTES + 1).read_to_end(&mut text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Vec<String>, String> {
    let mut list = Vec::new();
    for block in Pem::iter_from_buffer(text) {
        let block =
            block.map_err(|_| "is damaged: one of its PEM blocks cannot be read".to_owned())?;
        if block.label.contains("PRIVATE KEY") {
            return Err(
                "holds a private key, which would reach every machine: give a file with the certificate only"
                    .to_owned(),
            );
        }
        if !matches!(
            block.label.as_str(),
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE"
        ) {
            return Err(format!(
                "holds a block `{}`, which is no certificate",
                block.label
            ));
        }
        let number = list.len() + 1;
        let certificate = block
            .parse_x509()
            .map_err(|_| format!("holds a certificate (number {number}) that cannot be read"))?;
        if !certificate.is_ca() {
            return Err(format!(
                "holds a certificate (number {number}) that is none of an authority: it would be trusted in vain. \
                 Name the certificate of who signed it"
            ));
        }
        list.push(pem(&block.contents));
    }
    if list.is_empty() {
        return Err(
            "holds no certificate in PEM, which begins with `-----BEGIN CERTIFICATE-----`"
                .to_owned(),
        );
    }
    Ok(list)
}

/// RFC 7468: 64 characters in each line. What stood around a certificate stays behind.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn certificate(is_ca: bool) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        (params.self_signed(&key).unwrap().pem(), key)
    }

    #[test]
    fn certificates_are_taken_one_by_one_and_what_stands_around_them_is_not() {
        let (one, _) = certificate(true);
        let (other, _) = certificate(true);
        let text = format!(
            "subject=somebody\r\n{}\nsecret words\n{other}",
            one.replace('\n', "\r\n")
        );
        let list = parse(text.as_bytes()).unwrap();
        let plain = |text: &str| text.replace('\r', "");
        assert_eq!(list, [plain(&one), plain(&other)]);
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let (authority, key) = certificate(true);
        let (server, _) = certificate(false);
        let what = |text: String| parse(text.as_bytes()).unwrap_err();
        assert!(what(String::new()).contains("no certificate in PEM"));
        assert!(what("words".into()).contains("no certificate in PEM"));
        assert!(what(format!("{authority}{}", key.serialize_pem())).contains("private key"));
        assert!(what(server).contains("none of an authority"));
        assert!(what(authority.replace("-----END", "----END")).contains("cannot be read"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(what(broken.into()).contains("cannot be read"));
        assert!(
            read(Path::new("/nowhere.pem"))
                .unwrap_err()
                .contains("No such file")
        );
    }
}
