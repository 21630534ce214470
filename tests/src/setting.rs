//! Where programs and image are.

use std::path::{Path, PathBuf};

/// The programs and the image under test.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Folder of `remote-dockerd` and `setup-remote-docker`.
    pub bin: PathBuf,
    /// Folder that holds the one image under test.
    pub images: PathBuf,
    name: &'static str,
}

impl Setting {
    /// From `E2E_BIN_DIR` and `E2E_IMAGES_DIR`, which `make test` sets; otherwise where `make` puts
    /// them.
    ///
    /// # Panics
    /// When something is missing; says how to get it.
    #[must_use]
    pub fn find() -> Self {
        let setting = Self::unchecked();
        setting.check("make image");
        setting
    }

    /// The same programs, and the image of Debian's unstable suite, which has a newer engine. It lies in
    /// a folder beside that of the usual one, because a server reads every image that it is given.
    ///
    /// # Panics
    /// When something is missing; says how to get it.
    #[must_use]
    pub fn unstable() -> Self {
        let usual = Self::unchecked();
        let parent = usual.images.parent().unwrap_or(Path::new("/"));
        let setting = Self {
            images: parent.join("images-sid"),
            name: "sid",
            ..usual
        };
        setting.check("make image-sid");
        setting
    }

    /// These programs and the image `trixie` in this folder.
    #[must_use]
    pub fn new(bin: PathBuf, images: PathBuf) -> Self {
        Self {
            bin,
            images,
            name: "trixie",
        }
    }

    /// These programs and the image in this folder that runs programs for other processors.
    #[must_use]
    pub fn foreign(bin: PathBuf, images: PathBuf) -> Self {
        Self {
            bin,
            images,
            name: "trixie-foreign",
        }
    }

    fn unchecked() -> Self {
        let cache = variable("REMOTE_DOCKER_CACHE")
            .unwrap_or_else(|| "/var/cache/setup-remote-docker".into());
        Self::new(
            variable("E2E_BIN_DIR").unwrap_or_else(|| target().join("debug")),
            variable("E2E_IMAGES_DIR").unwrap_or_else(|| cache.join("images")),
        )
    }

    fn check(&self, image: &str) {
        for (path, how) in [
            (
                self.server(),
                "cargo build -p remote-dockerd --features failpoints",
            ),
            (self.cli(), "cargo build -p setup-remote-docker"),
            (self.image().join("manifest.json"), image),
        ] {
            assert!(
                path.is_file(),
                "{} is missing; `{how}` makes it, or set E2E_BIN_DIR and E2E_IMAGES_DIR",
                path.display()
            );
        }
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests take root: they run machines and make network namespaces; see `make test`"
        );
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.bin.join("remote-dockerd")
    }

    /// The CLI.
    #[must_use]
    pub fn cli(&self) -> PathBuf {
        self.bin.join("setup-remote-docker")
    }

    /// What is run as root in leased machines to try what must not succeed; static, as it brings nothing along.
    ///
    /// # Panics
    /// When it is missing; says how to get it.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.static_program("attack-probe", "make probe")
    }

    /// The guest agent, as images have it.
    ///
    /// # Panics
    /// When it is missing; says how to get it.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.static_program("guest-agent", "make agent")
    }

    fn static_program(&self, name: &str, how: &str) -> PathBuf {
        let target = self.bin.parent().unwrap_or(&self.bin);
        let program = target.join("x86_64-unknown-linux-gnu/release").join(name);
        assert!(
            program.is_file(),
            "{} is missing; `{how}` makes it",
            program.display()
        );
        program
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.images.join(self.name)
    }

    /// The docker CLI: the one that came with the image, which has BuildKit's plugin; on hosts whose C
    /// library is too old for it, the host's own.
    #[must_use]
    pub fn docker(&self) -> PathBuf {
        let own = self.image().join("client/docker");
        let runs = std::process::Command::new(&own)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success());
        if runs { own } else { PathBuf::from("docker") }
    }

    /// Folder of the docker CLI's plugins that came with the image.
    #[must_use]
    pub fn docker_plugins(&self) -> PathBuf {
        self.image().join("client/cli-plugins")
    }

    /// Where templates that tests share are kept.
    #[must_use]
    pub fn seeds(&self) -> PathBuf {
        self.images
            .parent()
            .unwrap_or(Path::new("/var/tmp"))
            .join(format!("test-templates-{}", self.name))
    }

    /// Where what is known about failed tests is kept.
    #[must_use]
    pub fn evidence(&self) -> PathBuf {
        self.bin.parent().unwrap_or(&self.bin).join("e2e-evidence")
    }
}

/// A Python that has Docker's clients: in `E2E_PYTHON_DIR`, which `make test` sets, otherwise where
/// `make test` puts it.
///
/// # Panics
/// When it is missing; says how to get it.
#[must_use]
pub fn python() -> PathBuf {
    let folder = variable("E2E_PYTHON_DIR").unwrap_or_else(|| target().join("tools/python"));
    let program = folder.join("bin/python");
    assert!(
        program.is_file(),
        "{} is missing; `tests/python/install.sh {}` makes it, or set E2E_PYTHON_DIR",
        program.display(),
        folder.display()
    );
    program
}

/// The program that asks the API whatever its document allows and forbids, from `E2E_SCHEMATHESIS_DIR`,
/// which `make test` sets; otherwise from where that puts it.
///
/// # Panics
/// When it is missing; says how to get it.
#[must_use]
pub fn schemathesis() -> PathBuf {
    let folder =
        variable("E2E_SCHEMATHESIS_DIR").unwrap_or_else(|| target().join("tools/schemathesis"));
    let program = folder.join("bin/schemathesis");
    assert!(
        program.is_file(),
        "{} is missing; `tests/python/install.sh {} schemathesis.txt` makes it, or set E2E_SCHEMATHESIS_DIR",
        program.display(),
        folder.display()
    );
    program
}

/// Debian's registry: in `E2E_REGISTRY_DIR`, which `make test` sets, otherwise where `make test` puts it.
///
/// # Panics
/// When it is missing; says how to get it.
#[must_use]
pub fn registry_program() -> PathBuf {
    let folder = variable("E2E_REGISTRY_DIR").unwrap_or_else(|| target().join("tools/registry"));
    let program = folder.join("bin/docker-registry");
    assert!(
        program.is_file(),
        "{} is missing; `tests/registry/install.sh {}` makes it, or set E2E_REGISTRY_DIR",
        program.display(),
        folder.display()
    );
    program
}

/// How long the API is asked, in seconds: `E2E_FUZZ_S`, for those who want to know it better than a run of all
/// tests has time for.
///
/// # Panics
/// When it is no number.
#[must_use]
pub fn fuzz_s() -> Option<u64> {
    let text = variable("E2E_FUZZ_S")?;
    let text = text.to_string_lossy();
    Some(text.parse().expect("E2E_FUZZ_S is a number of seconds"))
}

/// Where cargo builds.
fn target() -> PathBuf {
    variable("CARGO_TARGET_DIR")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into())
}

/// Below it lie the folders of all tests: `TMPDIR`, or a place on a real disk. QEMU's user must be able to
/// pass through it, and the paths of sockets in it must stay short.
pub(crate) fn parent() -> PathBuf {
    variable("TMPDIR").unwrap_or_else(|| PathBuf::from(STANDARD_PARENT))
}

/// Where the folders of tests lie when nobody says otherwise, and those of whole runs always.
pub(crate) const STANDARD_PARENT: &str = "/var/tmp";

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the harness reads the environment"
)]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
