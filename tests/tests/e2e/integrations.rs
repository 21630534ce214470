//! The steps for CI systems, as their users take them, on real machines.

use std::path::PathBuf;
use std::time::Duration;

use e2e::process::{said, text};
use e2e::runners::{github, gitlab, id_tokens::IdTokens, jenkins::Jenkins};
use e2e::{Cli, TestServer, until};

/// Prints the daemon that the step's variables lead to.
const VERSION: &str = "docker version --format 'the daemon is {{.Server.Os}}'";
const ANSWER: &str = "the daemon is linux";

/// No lease is left, no machine, and no key.
fn assert_given_back(server: &TestServer, keys: &[PathBuf]) {
    assert_eq!(keys, &[] as &[PathBuf]);
    until(
        "no lease is left",
        Duration::from_secs(60),
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
}

fn start() -> (TestServer, Cli) {
    let server = TestServer::start();
    let cli = server.cli();
    (server, cli)
}

#[test]
fn a_jenkins_block_gets_a_machine_that_goes_with_it() {
    let (server, cli) = start();
    let jenkins = Jenkins::new(&server, &cli);
    let done = jenkins.build(&format!(
        "setupRemoteDocker(ttl: '10m', labels: [why: \"it's\"], credentialsId: 'token') {{\n\
           sh \"{VERSION}\"\n\
           sh 'echo \"token [$REMOTE_DOCKER_TOKEN]\"'\n\
         }}\n\
         sh 'echo \"after [$DOCKER_HOST]\"'\n"
    ));
    let out = text(&done.stdout);
    assert!(
        done.status.success() && out.contains(ANSWER),
        "{}",
        said(&done)
    );
    // Only the client itself sees the token, and nothing outlives the block.
    assert!(
        out.contains("token []") && out.contains("after []"),
        "{out}"
    );
    assert_given_back(&server, &jenkins.left());
}

#[test]
fn a_jenkins_block_that_fails_or_is_aborted_gives_its_machine_back() {
    let (server, cli) = start();
    let jenkins = Jenkins::new(&server, &cli);
    for (body, code) in [("sh 'exit 5'", 1), ("abort()", 3)] {
        let done = jenkins.build(&format!(
            "setup_remote_docker(credentialsId: 'token') {{ sh \"{VERSION}\"; {body} }}"
        ));
        assert_eq!(done.status.code(), Some(code), "{}", said(&done));
        assert!(text(&done.stdout).contains(ANSWER), "{}", said(&done));
        assert_given_back(&server, &jenkins.left());
    }
}

#[test]
fn jenkins_in_two_steps_and_with_mistakes() {
    let (server, cli) = start();
    let jenkins = Jenkins::new(&server, &cli);
    let done = jenkins.build(&format!(
        "def lease = setupRemoteDocker.start(credentialsId: 'token', ttl: '10m')\n\
         try {{ withEnv(lease.env) {{ sh \"{VERSION}\" }} }} finally {{ setupRemoteDocker.stop(lease) }}\n\
         setupRemoteDocker.stop(lease)\n\
         echo \"lease ${{lease.id}} at ${{lease.host}} until ${{lease.expiresAt}}\"\n"
    ));
    let out = text(&done.stdout);
    assert!(
        done.status.success() && out.contains(ANSWER),
        "{}",
        said(&done)
    );
    assert!(
        out.contains("lease l-") && out.contains(" at tcp://127.0.0.1:"),
        "{out}"
    );
    assert_given_back(&server, &jenkins.left());

    for (mistake, told) in [
        ("tll: '10m'", "there is no option tll; there are ca, cli,"),
        (
            "credentialsId: 'token', engine: 'none'",
            "script returned exit code 65",
        ),
        ("credentialsId: 'other'", "there is no credential other"),
    ] {
        let done = jenkins.build(&format!(
            "setupRemoteDocker({mistake}) {{ echo 'not here' }}"
        ));
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        let out = text(&done.stdout);
        assert!(
            out.contains(told) && !out.contains("not here"),
            "{}",
            said(&done)
        );
        assert_given_back(&server, &jenkins.left());
    }
}

#[test]
fn steps_of_a_github_job_share_a_machine_until_it_is_given_back() {
    let (server, cli) = start();
    let mut job = github::Job::new(&server, &cli);
    let server_of = [("url", cli.url()), ("token", cli.token())];
    let done = job.uses(&[&server_of[..], &[("ttl", "10m")]].concat());
    assert!(done.status.success(), "{}", said(&done));
    let done = job.run(VERSION);
    assert_eq!(text(&done.stdout), ANSWER, "{}", said(&done));
    // The step with `if: always()`.
    let done = job.uses(&[&server_of[..], &[("command", "stop")]].concat());
    assert!(done.status.success(), "{}", said(&done));
    let done = job.run("echo \"[$DOCKER_HOST]\"");
    assert_eq!(text(&done.stdout), "[]");
    assert_given_back(&server, &job.left());
    let done = job.uses(&[("command", "stop")]);
    assert_eq!(text(&done.stdout), "There is no machine to give back.");
}

#[test]
fn a_github_step_with_commands_gives_its_machine_back_and_passes_their_code_on() {
    let (server, cli) = start();
    let mut job = github::Job::new(&server, &cli);
    let script = format!("{VERSION}\necho \"token [${{REMOTE_DOCKER_TOKEN-}}]\"\nexit 6\n");
    let done = job.uses(&[("url", cli.url()), ("token", cli.token()), ("run", &script)]);
    assert_eq!(done.status.code(), Some(6), "{}", said(&done));
    assert_eq!(text(&done.stdout), format!("{ANSWER}\ntoken []"));
    assert_given_back(&server, &job.left());
    let done = job.uses(&[("command", "begin")]);
    assert_eq!(done.status.code(), Some(2));
    assert!(
        text(&done.stdout).contains("is start or stop, not `begin`"),
        "{}",
        said(&done)
    );
}

#[test]
fn a_gitlab_job_gets_a_machine_that_goes_after_its_script() {
    let (server, cli) = start();
    let job = gitlab::Job::new(&server, &cli);
    let options = [("REMOTE_DOCKER_OPTIONS", "--ttl 10m --label why=test")];
    for (last, code) in [("true", 0), ("exit 7", 7)] {
        let done = job.run(&options, &[VERSION, last]);
        assert_eq!(
            done.script.status.code(),
            Some(code),
            "{}",
            said(&done.script)
        );
        assert_eq!(text(&done.script.stdout), ANSWER);
        assert!(done.after.status.success(), "{}", said(&done.after));
        assert_given_back(&server, &job.left());
    }
    let done = job.run(
        &[("REMOTE_DOCKER_OPTIONS", "--engine none")],
        &["echo here"],
    );
    assert!(!done.script.status.success(), "{}", said(&done.script));
    assert_eq!(text(&done.script.stdout), "");
    assert!(done.after.status.success(), "{}", said(&done.after));
    assert_given_back(&server, &job.left());
}

/// What people and pull requests write into options stays what it is: no shell and no runner obeys it.
#[test]
fn options_of_jobs_are_words_and_nothing_else() {
    let (server, cli) = start();
    let owned = server.root().join("owned");
    let touch = format!("touch${{IFS}}{}", owned.display());
    let evil = format!("$({touch});`{touch}`'\"*%0A");

    let job = gitlab::Job::new(&server, &cli);
    // What a shell would put in the place of the word with the star.
    std::fs::write(server.root().join("app/star=expanded"), "").unwrap();
    let options = format!("--label why={evil} --label star=*");
    let list = "setup-remote-docker list --format json";
    let done = job.run(&[("REMOTE_DOCKER_OPTIONS", &options)], &[list]);
    assert!(done.script.status.success(), "{}", said(&done.script));
    let told: serde_json::Value = serde_json::from_slice(&done.script.stdout).unwrap();
    assert_eq!(told["leases"][0]["labels"]["why"], evil.as_str());
    assert_eq!(told["leases"][0]["labels"]["star"], "*");
    assert_given_back(&server, &job.left());

    let mut job = github::Job::new(&server, &cli);
    let done = job.uses(&[
        ("url", cli.url()),
        ("token", cli.token()),
        ("engine", &evil),
    ]);
    assert_eq!(done.status.code(), Some(65), "{}", said(&done));
    let done = job.uses(&[("command", "stop\n::add-mask::a\r\n::set-output name=b::c")]);
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert_eq!(text(&done.stdout).lines().count(), 1, "{}", said(&done));
    let done = job.uses(&[("command", "runaway")]);
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert!(server.api().list().is_empty());

    let jenkins = Jenkins::new(&server, &cli);
    let escaped = evil.replace('\\', "\\\\").replace('\'', "\\'");
    let done = jenkins.build(&format!(
        "def lease = setupRemoteDocker.start(credentialsId: 'token', labels: [why: '{escaped}'])\n\
         echo lease.id"
    ));
    assert!(done.status.success(), "{}", said(&done));
    let leases = server.api().list();
    assert_eq!(leases[0].labels["why"], evil, "{leases:?}");
    server.api().release(leases[0].id);
    server.wait_clean();
    assert!(!owned.exists(), "a shell obeyed an option");
}

#[test]
fn a_github_job_needs_no_stored_token() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the server compares this with the same clock"
    )]
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let issuer = "https://token.actions.githubusercontent.com";
    let claims =
        serde_json::json!({ "sub": "repo:example/app:ref:main", "repository": "example/app" });
    let mut tokens = IdTokens::new(issuer, claims, now);
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), tokens.jwks()).unwrap();
    let rule = |repository: &str| {
        serde_json::json!([{
            "issuer": issuer,
            "audience": "remote-docker",
            "jwks_file": keys.path(),
            "rule": [{ "project": "default", "claims": { "repository": repository } }],
        }])
    };
    let server = TestServer::builder().set("oidc", rule("example/*")).start();
    let cli = server.cli();
    tokens.listen();
    let mut job = github::Job::new(&server, &cli);
    let with = |more: &[(&'static str, &'static str)]| {
        let mut with = vec![("url", cli.url())];
        with.extend(more);
        with
    };

    // Without the permission, and for another audience.
    let done = job.uses(&with(&[("audience", "remote-docker")]));
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert!(
        text(&done.stdout).contains("id-token: write"),
        "{}",
        said(&done)
    );
    job.may_have_tokens_of(&tokens);
    let done = job.uses(&with(&[("audience", "another-server")]));
    assert_eq!(done.status.code(), Some(77), "{}", said(&done));
    assert!(text(&done.stderr).contains("audience"), "{}", said(&done));

    let done = job.uses(&with(&[("audience", "remote-docker"), ("run", VERSION)]));
    assert!(done.status.success(), "{}", said(&done));
    let out = text(&done.stdout);
    assert!(
        out.contains(ANSWER) && out.contains("::add-mask::ey"),
        "{out}"
    );
    assert_eq!(job.left(), Vec::<PathBuf>::new());

    // In steps; the last one has nothing but what the lease brought along.
    let done = job.uses(&with(&[("audience", "remote-docker"), ("ttl", "10m")]));
    assert!(done.status.success(), "{}", said(&done));
    tokens.close();
    let done = job.run(VERSION);
    assert_eq!(text(&done.stdout), ANSWER, "{}", said(&done));
    let done = job.uses(&with(&[("command", "stop")]));
    assert!(done.status.success(), "{}", said(&done));
    assert_given_back(&server, &job.left());
    // What was shown is in no log.
    let log = server.log();
    assert!(!log.contains("eyJ") && !log.contains("rdl_"), "{log}");
}
