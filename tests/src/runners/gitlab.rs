//! A runner of GitLab jobs: `before_script` and `script` in one shell, `after_script` in another, whatever
//! became of the first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;

use serde::Deserialize;

use super::{command, integrations};
use crate::process::run;
use crate::{Cli, TestServer};

/// The hidden job that jobs extend.
const TEMPLATE: &str = ".setup-remote-docker";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    variables: BTreeMap<String, String>,
    before_script: Vec<String>,
    after_script: Vec<String>,
}

/// What came of the parts of a job.
#[derive(Debug)]
pub struct Done {
    /// `before_script` and `script`.
    pub script: Output,
    /// `after_script`.
    pub after: Output,
}

/// A job on a runner.
#[derive(Debug)]
pub struct Job<'a> {
    server: &'a TestServer,
    cli: &'a Cli,
    project: PathBuf,
}

impl<'a> Job<'a> {
    /// # Panics
    /// When the runner's folders cannot be made.
    #[must_use]
    pub fn new(server: &'a TestServer, cli: &'a Cli) -> Self {
        let project = server.root().join("app");
        std::fs::create_dir_all(&project).expect("the project's folder");
        Self {
            server,
            cli,
            project,
        }
    }

    /// Runs a job that extends the template.
    ///
    /// # Panics
    /// When the template is none, or the shells cannot be run.
    #[must_use]
    pub fn run(&self, variables: &[(&str, &str)], script: &[&str]) -> Done {
        let file = integrations().join("gitlab/setup-remote-docker.yml");
        let text = std::fs::read_to_string(file).expect("the template");
        let mut jobs: BTreeMap<String, Template> =
            serde_saphyr::from_str(&text).expect("a file of jobs");
        let mut template = jobs.remove(TEMPLATE).expect("the template's job");
        assert!(jobs.is_empty(), "{jobs:?}");
        for (name, value) in variables {
            template
                .variables
                .insert((*name).to_owned(), (*value).to_owned());
        }
        let mut first = template.before_script.clone();
        first.extend(script.iter().map(|line| (*line).to_owned()));
        Done {
            script: self.shell(&first, &template.variables),
            after: self.shell(&template.after_script, &template.variables),
        }
    }

    fn shell(&self, lines: &[String], variables: &BTreeMap<String, String>) -> Output {
        let mut bash = command(self.server, self.cli, "bash");
        bash.args(["-eo", "pipefail", "-c", &lines.join("\n")])
            .current_dir(&self.project)
            .env("CI", "true")
            .env("CI_PROJECT_DIR", &self.project)
            .env("CI_PROJECT_PATH", "example/app")
            .env("CI_JOB_ID", "7")
            .env("REMOTE_DOCKER_URL", self.cli.url())
            .env("REMOTE_DOCKER_TOKEN", self.cli.token())
            .envs(variables);
        run(&mut bash)
    }

    /// What lies beside the project.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.project.with_extension("tmp"));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}
