//! The command line itself.

use insta::assert_snapshot;

use crate::sandbox::Sandbox;

const NOWHERE: &str = "http://127.0.0.1:9";

fn shown(args: &str) -> String {
    let sandbox = Sandbox::at(NOWHERE);
    sandbox.show(&mut sandbox.program(args))
}

#[test]
fn help() {
    assert_snapshot!("help", shown("--help"));
    for command in [
        "start",
        "run",
        "stop",
        "list",
        "show",
        "extend",
        "logs",
        "ssh",
        "ssh-config",
        "doctor",
        "completions",
        "man",
    ] {
        assert_snapshot!(
            format!("help_{command}"),
            shown(&format!("{command} --help"))
        );
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    let all: String = [
        "--format yaml",
        "--format sh --env-file x",
        "--ttl soon",
        "--wait 0s",
        "--label novalue",
        "--engine=",
        "--keepalive 0s",
        "--idle soon",
        "--idempotency-key=",
        "run --idempotency-key a true",
        "--ttl 1h stop",
        "run",
        "launch",
        "stop l-1",
        "show",
        "extend",
        "extend soon",
        "extend 0s",
        "logs --only kernel",
        "ssh -L 80 true",
        "ssh -N true",
        "ssh true",
        "ssh-config l-1",
        "logs --only docker --format json",
        "completions tcsh",
        "--label a=1 --label a=2",
        "list --token x --token-file y",
    ]
    .into_iter()
    .map(|args| format!("$ {args}\n{}\n", shown(args)))
    .collect();
    assert_snapshot!(all);
}

#[test]
fn a_wrong_configuration_is_refused() {
    let sandbox = Sandbox::at(NOWHERE);
    let config = sandbox.path("config/setup-remote-docker/config.toml");
    let mut all = String::new();
    for text in ["urll = 'x'", "token = 'hush", "ttl = 'soon'"] {
        std::fs::write(&config, text).unwrap();
        all += &sandbox.show(&mut sandbox.program("list"));
    }
    std::fs::remove_file(&config).unwrap();
    all += &sandbox.show(sandbox.program("list").env("REMOTE_DOCKER_TOKEN", ""));
    all += &sandbox.show(sandbox.program("list").env("REMOTE_DOCKER_TOKEN", "a b"));
    all += &sandbox.show(sandbox.program("list").env("REMOTE_DOCKER_URL", "ftp://x"));
    all += &sandbox.show(&mut sandbox.program("list --config none.toml"));
    all += &sandbox.show(&mut sandbox.program("list --token-file none"));
    assert!(!all.contains("hush"), "{all}");
    assert_snapshot!(all);
}

#[test]
fn the_exit_codes_of_the_guide_are_those_of_the_help() {
    let guide = include_str!("../../../docs/cli.md");
    let (_, table) = guide.split_once("## Exit codes").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (code, meaning) = (cells.next()?, cells.next()?);
        code.parse::<u8>().ok()?;
        Some((code, meaning))
    });
    let rows: Vec<_> = rows.collect();
    let sandbox = Sandbox::at(NOWHERE);
    let help = sandbox.program("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let (_, list) = help.split_once("Exit codes:\n").unwrap();
    let entries = list.lines().filter_map(|line| {
        let (code, meaning) = line.trim().split_once("  ")?;
        code.parse::<u8>().ok()?;
        Some((code, meaning.trim()))
    });
    assert_eq!(rows, entries.collect::<Vec<_>>());
    assert!(rows.len() > 10, "{rows:?}");
}
