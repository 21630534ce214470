//! Looks at the docker CLI: whether it is there, and whether it and the daemon of this shell's lease
//! understand each other.

use std::str::FromStr;

use remote_docker_api::LeaseId;

use super::report::Finding;
use crate::docker;
use crate::environment::Environment;
use crate::lease_dir::LeaseDir;
use crate::ui::in_one_line;

/// Engine 29 and later speak no older API.
const OLDEST_API: (u32, u32) = (1, 44);

pub(super) async fn look(environment: &Environment) -> Vec<Finding> {
    // It fails where there is no daemon, and prints this all the same.
    let asked = [
        "version",
        "--format",
        "{{.Client.Version}} {{.Client.APIVersion}}",
    ];
    let printed = match docker::call(&asked).await {
        Ok(printed) => printed,
        Err(error) if error.is_missing() => {
            let hint = "install one, such as Debian's docker-cli; no daemon is needed";
            return vec![Finding::failed("docker", "there is no docker CLI in PATH").hint(hint)];
        }
        Err(error) => return vec![Finding::failed("docker", in_one_line(&error))],
    };
    let Some((version, api)) = printed.stdout.split_once(' ') else {
        let said = printed.stderr.lines().next().unwrap_or("it says nothing");
        let what = format!("`docker version` does not tell its version: {said}");
        return vec![Finding::failed("docker", what)];
    };
    let what = format!("the CLI is version {version} and speaks API {api}");
    let client = match api_version(api) {
        Some(spoken) if spoken < OLDEST_API => Finding::warning("docker", what)
            .hint("engines from 29 on refuse such an old API; a newer CLI is good for all engines"),
        _ => Finding::ok("docker", what),
    };
    let mut findings = vec![client, buildx().await];
    findings.extend(daemon(environment).await);
    findings
}

fn api_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn buildx() -> Finding {
    match docker::ok(&["buildx", "version"]).await {
        Ok(version) => Finding::ok("buildx", version),
        Err(_) => Finding::warning("buildx", "the docker CLI has no plugin buildx").hint(
            "`docker build` then uses the old builder, and not at all with engines that lack it; \
             Debian's package is docker-buildx",
        ),
    }
}

/// Whether `docker` can use the lease of this shell, if it has one whose keys are here.
async fn daemon(environment: &Environment) -> Option<Finding> {
    let id = LeaseId::from_str(environment.lease.as_deref()?).ok()?;
    let dir = LeaseDir::find(environment, id)?;
    let note = dir.note()?;
    let asked = [
        "version",
        "--format",
        "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}",
    ];
    let answer = match docker::call_at(&asked, &note.docker_host, dir.path()).await {
        Ok(answer) => answer,
        Err(error) => return Some(Finding::failed("daemon", in_one_line(&error))),
    };
    let words: Vec<_> = answer.stdout.split_whitespace().collect();
    Some(match (answer.success, words.as_slice()) {
        (true, [version, api, oldest]) => Finding::ok(
            "daemon",
            format!("that of {id} is version {version} and speaks API {oldest} to {api}"),
        ),
        _ => {
            let said = answer.stderr.lines().find(|line| !line.trim().is_empty());
            let said = said.unwrap_or("docker does not say why");
            Finding::failed("daemon", format!("that of {id} cannot be used: {said}"))
                .hint(remedy(said))
        }
    })
}

/// What to do about a daemon that `docker` says this of.
fn remedy(said: &str) -> &'static str {
    if said.contains("is too old") {
        "the docker CLI is older than what the engine accepts: use a newer one, or an older --engine; if \
         DOCKER_API_VERSION is set, unset it"
    } else if said.contains("is too new") {
        "the docker CLI is newer than what the engine accepts: use an older one, or a newer --engine; if \
         DOCKER_API_VERSION is set, unset it"
    } else {
        "`setup-remote-docker show` tells whether the lease lasts; its port must be reachable from here"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(api_version("1.9") < Some(OLDEST_API));
        assert!(api_version("1.43") < Some(OLDEST_API));
        assert!(api_version("1.50") > Some(OLDEST_API));
        assert_eq!(api_version("edge"), None);
    }
}
