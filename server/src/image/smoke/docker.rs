//! What a machine is for: a container is built and run on it, by the docker CLI that the image brings.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use remote_docker_api::DockerEndpoint;
use tokio::process::Command;

use super::{SmokeError, file};

/// How long each command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A static program of 162 bytes for x86-64 that writes [`SAYS`], so that no image has to be pulled: an ELF
/// header, one program header, then `write(1, text, 9)`, `exit(0)` and the text.
const PROGRAM: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\
    \x02\0\x3e\0\x01\0\0\0\x78\0\x40\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\
    \x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\xa2\0\0\0\0\0\0\0\xa2\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\
    \xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x10\0\0\0\xba\x09\0\0\0\x0f\x05\xb8\x3c\0\0\0\x31\xff\x0f\x05\
    it works\n";

const SAYS: &str = "it works";

const DOCKERFILE: &str =
    "FROM scratch\nCOPY program /program\nRUN [\"/program\"]\nENTRYPOINT [\"/program\"]\n";

const TAG: &str = "trial";

pub(super) struct Docker {
    program: PathBuf,
    config: PathBuf,
    certificates: PathBuf,
    context: PathBuf,
    host: String,
}

impl Docker {
    pub(super) fn new(
        image: &Path,
        folder: &Path,
        endpoint: &DockerEndpoint,
        key_pem: &str,
    ) -> Result<Self, SmokeError> {
        let write = |path: &Path, text: &[u8], mode: u32| {
            std::fs::write(path, text)
                .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
                .map_err(file("write", path))
        };
        let [config, certificates, context] =
            ["docker", "certificates", "context"].map(|name| folder.join(name));
        for path in [&config, &certificates, &context] {
            std::fs::create_dir(path)
                .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
                .map_err(file("make", path))?;
        }
        let plugins = config.join("cli-plugins");
        let there = image.join("client/cli-plugins");
        std::os::unix::fs::symlink(&there, &plugins).map_err(file("make", &plugins))?;
        write(
            &certificates.join("ca.pem"),
            endpoint.ca_pem.as_bytes(),
            0o600,
        )?;
        write(
            &certificates.join("cert.pem"),
            endpoint.cert_pem.as_bytes(),
            0o600,
        )?;
        write(&certificates.join("key.pem"), key_pem.as_bytes(), 0o600)?;
        write(&context.join("Dockerfile"), DOCKERFILE.as_bytes(), 0o644)?;
        write(&context.join("program"), PROGRAM, 0o755)?;
        Ok(Self {
            program: image.join("client/docker"),
            config,
            certificates,
            context,
            host: endpoint.host.clone(),
        })
    }

    /// Builds a container with BuildKit and runs it.
    pub(super) async fn works(&self) -> Result<(), SmokeError> {
        self.run(&["version"]).await?;
        let context = self.context.to_string_lossy();
        self.run(&["build", "--tag", TAG, &context]).await?;
        let run = ["run", "--rm", TAG];
        let said = self.run(&run).await?;
        if said.trim() == SAYS {
            return Ok(());
        }
        Err(SmokeError::Docker {
            command: run.join(" "),
            output: format!(
                "it was to say \"{SAYS}\" and said \"{}\"",
                said.escape_debug()
            ),
        })
    }

    /// What it wrote to standard output.
    async fn run(&self, args: &[&str]) -> Result<String, SmokeError> {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.config)
            .env("DOCKER_CONFIG", &self.config)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", &self.certificates)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let failed = |output: String| SmokeError::Docker {
            command: args.join(" "),
            output,
        };
        let output = match tokio::time::timeout(LIMIT, command.output()).await {
            Ok(output) => output.map_err(file("run", &self.program))?,
            Err(_) => return Err(failed(format!("no end in {} s", LIMIT.as_secs()))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                said
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_says_what_it_is_to_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, PROGRAM).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let output = std::process::Command::new(path).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), SAYS);
    }
}
