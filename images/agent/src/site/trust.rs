//! Authorities of the site, beside those that the image brings.
//!
//! Those for everything go into the bundle that the daemon, BuildKit, Git and people's programs in the
//! machine read. The daemon reads it once, when it first speaks TLS to somebody outside, and a template's
//! never has; so a clone may still change it. Those for certain registries lie where the daemon looks
//! them up for each connection.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use guest_protocol::Authority;

use super::files;

/// The bundle, from the root of the file system on.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// The image's own, kept to begin from.
const OF_IMAGE: &str = "etc/ssl/ca-certificates.image.crt";
/// Where OpenSSL looks for a bundle, if nobody tells it another.
const OF_OPENSSL: &str = "usr/lib/ssl/cert.pem";
/// From here `update-ca-certificates` takes them, should somebody in the machine run it.
const LOCAL: &str = "usr/local/share/ca-certificates";
/// One folder for each registry.
const REGISTRIES: &str = "etc/docker/certs.d";

/// Has the guest trust `new` in the place of `old`.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn replace(old: &[Authority], new: &[Authority]) -> anyhow::Result<()> {
    replace_in(Path::new("/"), old, new)
}

fn replace_in(root: &Path, old: &[Authority], new: &[Authority]) -> anyhow::Result<()> {
    if old == new {
        return Ok(());
    }
    for (path, _) in single_files(root, old)? {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    for (path, certificate) in single_files(root, new)? {
        files::replace(&path, certificate.as_bytes())?;
    }
    let (bundle, of_image) = (root.join(BUNDLE), root.join(OF_IMAGE));
    if !of_image.exists() {
        fs::hard_link(&bundle, &of_image)
            .with_context(|| format!("cannot keep {}", bundle.display()))?;
    }
    let mut text = fs::read_to_string(&of_image)
        .with_context(|| format!("cannot read {}", of_image.display()))?;
    for authority in new.iter().filter(|it| it.registries.is_empty()) {
        for certificate in &authority.certificates {
            text.push_str(certificate);
        }
    }
    files::replace(&bundle, text.as_bytes())?;
    // OpenSSL finds the image's authorities by the hashes of their names. Ours have no such links.
    let link = root.join(OF_OPENSSL);
    match symlink(Path::new("/").join(BUNDLE), &link) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the link {}", link.display()))
        }
        _ => Ok(()),
    }
}

/// The files that hold one certificate each.
fn single_files<'a>(
    root: &Path,
    authorities: &'a [Authority],
) -> anyhow::Result<Vec<(PathBuf, &'a str)>> {
    let mut list = Vec::new();
    for (number, authority) in authorities.iter().enumerate() {
        for (part, certificate) in authority.certificates.iter().enumerate() {
            let name = format!("site-{number}-{part}.crt");
            if authority.registries.is_empty() {
                list.push((root.join(LOCAL).join(&name), certificate.as_str()));
            }
            for registry in &authority.registries {
                if registry.is_empty() || registry.starts_with('.') || registry.contains('/') {
                    bail!("`{registry}` is no registry");
                }
                let folder = root.join(REGISTRIES).join(registry);
                list.push((folder.join(&name), certificate.as_str()));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc/ssl/certs", "usr/lib/ssl"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join(BUNDLE), "IMAGE\n").unwrap();
        root
    }

    fn authority(certificates: &[&str], registries: &[&str]) -> Authority {
        Authority {
            certificates: certificates.iter().map(|text| (*text).to_owned()).collect(),
            registries: registries.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_taken_out_is_trusted_no_more() {
        let root = root();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).ok();
        let one = [
            authority(&["A\n", "B\n"], &[]),
            authority(&["C\n"], &["registry.lan:5000"]),
        ];
        replace_in(root.path(), &[], &one).unwrap();
        assert_eq!(read(BUNDLE).unwrap(), "IMAGE\nA\nB\n");
        assert_eq!(
            read("etc/docker/certs.d/registry.lan:5000/site-1-0.crt").unwrap(),
            "C\n"
        );
        assert_eq!(
            read("usr/local/share/ca-certificates/site-0-1.crt").unwrap(),
            "B\n"
        );
        let link = fs::read_link(root.path().join(OF_OPENSSL)).unwrap();
        assert_eq!(link, Path::new("/etc/ssl/certs/ca-certificates.crt"));

        let other = [authority(&["D\n"], &[])];
        replace_in(root.path(), &one, &other).unwrap();
        assert_eq!(read(BUNDLE).unwrap(), "IMAGE\nD\n");
        assert_eq!(
            read("etc/docker/certs.d/registry.lan:5000/site-1-0.crt"),
            None
        );
        assert_eq!(read("usr/local/share/ca-certificates/site-0-1.crt"), None);

        replace_in(root.path(), &other, &[]).unwrap();
        assert_eq!(read(BUNDLE).unwrap(), "IMAGE\n");
    }

    #[test]
    fn a_registry_is_no_path() {
        let root = root();
        for name in ["", "..", "../../etc", "a/b"] {
            let bad = [authority(&["A\n"], &[name])];
            assert!(replace_in(root.path(), &[], &bad).is_err(), "{name}");
        }
    }
}
