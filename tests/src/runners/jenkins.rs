//! A Jenkins controller, as far as `cli/integrations/jenkins/test/pipeline.groovy` is one.

use std::path::PathBuf;
use std::process::Output;

use super::{command, integrations};
use crate::process::run;
use crate::{Cli, TestServer};

/// The token is the credential `token`; the agent knows where the server is.
#[derive(Debug)]
pub struct Jenkins<'a> {
    server: &'a TestServer,
    cli: &'a Cli,
    temporary: PathBuf,
}

impl<'a> Jenkins<'a> {
    /// A build with a temporary folder of its own.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn new(server: &'a TestServer, cli: &'a Cli) -> Self {
        let temporary = server.root().join("workspace@tmp");
        std::fs::create_dir_all(&temporary).expect("a temporary folder");
        Self {
            server,
            cli,
            temporary,
        }
    }

    /// Runs a pipeline script to its end.
    ///
    /// # Panics
    /// When Groovy cannot be run.
    #[must_use]
    pub fn build(&self, pipeline: &str) -> Output {
        let script = self.server.root().join("Jenkinsfile");
        std::fs::write(&script, pipeline).expect("the pipeline's file");
        let library = integrations().join("jenkins");
        let mut groovy = command(self.server, self.cli, "groovy");
        groovy
            .arg("-cp")
            .arg(library.join("test/stubs"))
            .arg(library.join("test/pipeline.groovy"))
            .arg(library.join("vars"))
            .arg(script)
            .arg(&self.temporary)
            .env("JAVA_HOME", java_home())
            .env("REMOTE_DOCKER_URL", self.cli.url())
            .env("SECRET_TOKEN", self.cli.token())
            .env("BUILD_TAG", "jenkins-app-7");
        run(&mut groovy)
    }

    /// What lies in the build's temporary folder.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.temporary).expect("the temporary folder");
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

/// Where the host's Java is: Groovy by itself looks for the one of the package `default-jre`, and runs with any.
fn java_home() -> PathBuf {
    let java = PathBuf::from("/usr/bin/java");
    let java = java.canonicalize().expect("a Java");
    let home = java.ancestors().nth(2).expect("its folder");
    home.to_owned()
}
