//! A runner of GitHub jobs: runs composite actions, and knows `${{ inputs.NAME }}`, steps of bash, their
//! `env`, and the file by which a step sets variables for those that come after it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;

use serde::Deserialize;

use super::id_tokens::IdTokens;
use super::{command, integrations};
use crate::process::run;
use crate::{Cli, TestServer};

/// `action.yml`, as far as a composite action needs it. What is not known here is refused: the test would
/// show nothing about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "description")]
    _description: String,
    inputs: BTreeMap<String, Input>,
    runs: Runs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(rename = "description")]
    _description: String,
    default: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    using: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    shell: String,
    run: String,
    env: BTreeMap<String, String>,
}

/// A job on a runner.
#[derive(Debug)]
pub struct Job<'a> {
    server: &'a TestServer,
    cli: &'a Cli,
    temporary: PathBuf,
    /// What steps have set for those that come after.
    variables: BTreeMap<String, String>,
}

impl<'a> Job<'a> {
    /// # Panics
    /// When the runner's folder cannot be made.
    #[must_use]
    pub fn new(server: &'a TestServer, cli: &'a Cli) -> Self {
        let temporary = server.root().join("_temp");
        std::fs::create_dir_all(&temporary).expect("a temporary folder");
        Self {
            server,
            cli,
            temporary,
            variables: BTreeMap::new(),
        }
    }

    /// The job has `permissions: id-token: write`.
    pub fn may_have_tokens_of(&mut self, tokens: &IdTokens) {
        let given = [
            ("ACTIONS_ID_TOKEN_REQUEST_URL", &tokens.url),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", &tokens.secret),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.clone()));
        self.variables.extend(given);
    }

    /// A step `uses: …/github` with these inputs.
    ///
    /// # Panics
    /// When the action or an input is none.
    pub fn uses(&mut self, with: &[(&str, &str)]) -> Output {
        let folder = integrations().join("github");
        let text = std::fs::read_to_string(folder.join("action.yml")).expect("the action");
        let action: Action = serde_saphyr::from_str(&text).expect("a composite action");
        assert_eq!(action.runs.using, "composite");
        let mut inputs: BTreeMap<&str, &str> = action
            .inputs
            .iter()
            .map(|(name, input)| (name.as_str(), input.default.as_str()))
            .collect();
        for (name, value) in with {
            assert!(inputs.insert(name, value).is_some(), "no input {name}");
        }
        let [step] = &action.runs.steps[..] else {
            panic!("not one step");
        };
        assert_eq!(step.shell, "bash");
        let env: Vec<(String, String)> = step
            .env
            .iter()
            .map(|(name, value)| (name.clone(), expand(value, &inputs)))
            .chain([(
                "GITHUB_ACTION_PATH".to_owned(),
                folder.display().to_string(),
            )])
            .collect();
        self.step(&expand(&step.run, &inputs), &env)
    }

    /// A step `run: …`.
    pub fn run(&mut self, script: &str) -> Output {
        self.step(script, &[])
    }

    /// # Panics
    /// When the step cannot be run or its files cannot be read.
    fn step(&mut self, script: &str, env: &[(String, String)]) -> Output {
        let set = self.temporary.join("set_env");
        std::fs::write(&set, "").expect("a file for variables");
        let mut bash = command(self.server, self.cli, "bash");
        bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
            .envs(&self.variables)
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_REPOSITORY", "example/app")
            .env("GITHUB_RUN_ID", "7")
            .env("GITHUB_ENV", &set)
            .env("RUNNER_TEMP", &self.temporary)
            .envs(env.iter().map(|(name, value)| (name, value)));
        let output = run(&mut bash);
        let text = std::fs::read_to_string(&set).expect("the file for variables");
        self.variables.extend(assignments(&text));
        std::fs::remove_file(&set).expect("the file for variables");
        output
    }

    /// What lies in the runner's temporary folder.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.temporary.join("setup-remote-docker"));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

/// Puts the values of inputs in place of the expressions that name them.
fn expand(text: &str, inputs: &BTreeMap<&str, &str>) -> String {
    let mut parts = text.split("${{");
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (expression, rest) = part.split_once("}}").expect("the end of an expression");
        let name = expression.trim().strip_prefix("inputs.");
        let value = name.and_then(|name| inputs.get(name));
        expanded += value.expect("an input");
        expanded += rest;
    }
    expanded
}

/// `NAME=VALUE`, and `NAME<<MARK` for a value of several lines.
fn assignments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((name, mark)) = line.split_once("<<") {
            let value: Vec<&str> = lines.by_ref().take_while(|line| *line != mark).collect();
            found.push((name.to_owned(), value.join("\n")));
        } else if let Some((name, value)) = line.split_once('=') {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_and_files_are_read_as_documented() {
        let inputs = BTreeMap::from([("a", "1"), ("b", "")]);
        assert_eq!(
            expand("x ${{ inputs.a }}-${{inputs.b}} y", &inputs),
            "x 1- y"
        );
        let set = assignments("A=1=2\nB<<end\nx\ny\nend\nC=\n");
        let set: Vec<(&str, &str)> = set.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(set, [("A", "1=2"), ("B", "x\ny"), ("C", "")]);
    }
}
