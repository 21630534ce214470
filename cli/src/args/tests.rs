use super::*;

#[test]
fn the_definition_is_sound() {
    CommandLine::command().debug_assert();
}

#[test]
fn a_bare_call_is_a_start() {
    let line = CommandLine::parse_from(["x", "--ttl", "1h30m", "--label", "a=b=c"]);
    let (_, Command::Start(start)) = line.into_command().unwrap() else {
        panic!("not a start");
    };
    assert_eq!(start.lease.ttl, Some(Duration::from_secs(5400)));
    assert_eq!(start.lease.labels, [("a".to_owned(), "b=c".to_owned())]);
}

#[test]
fn an_option_that_would_not_be_heeded_is_refused() {
    let line = CommandLine::parse_from(["x", "--ttl", "1h", "run", "true"]);
    assert!(line.into_command().is_err());
    // A global one may stand anywhere.
    for words in [["x", "-q", "run", "true"], ["x", "run", "-q", "true"]] {
        let (global, _) = CommandLine::parse_from(words).into_command().unwrap();
        assert!(global.quiet);
    }
}

#[test]
fn what_a_shell_evaluates_is_told_from_the_rest() {
    let throws = Format::Powershell.failure();
    for (words, expected) in [
        (vec!["x"], Some("false;\n")),
        (vec!["x", "start", "--format", "sh"], Some("false;\n")),
        (vec!["x", "start", "--format", "fish"], Some("false;\n")),
        (vec!["x", "--format=powershell"], throws),
        (vec!["x", "--format", "json"], None),
        (vec!["x", "start", "--format=json"], None),
        (vec!["x", "start", "--format=github"], None),
        (vec!["x", "stop"], None),
        (vec!["x", "run", "true"], None),
    ] {
        let line = CommandLine::parse_from(&words);
        let (_, command) = line.into_command().unwrap();
        assert_eq!(command.failure_for_a_shell(), expected, "{words:?}");
        let unparsed = failure_for_a_shell(words.iter().map(Into::into));
        assert_eq!(unparsed, expected, "{words:?}");
    }
}

#[test]
fn a_file_that_nothing_would_be_written_to_is_refused() {
    for (words, fits) in [
        (["x", "start", "--format=sh", "--env-file=f"], false),
        (["x", "stop", "--format=json", "--env-file=f"], false),
        (["x", "start", "--format=gitlab", "--env-file=f"], true),
        (["x", "stop", "--format=dotenv", "--env-file=f"], true),
    ] {
        let line = CommandLine::parse_from(words);
        assert_eq!(line.into_command().is_ok(), fits, "{words:?}");
    }
}

#[test]
fn the_command_keeps_its_own_options() {
    for words in [
        vec!["x", "run", "--ttl", "5s", "--", "make", "-q", "--ttl", "1"],
        vec!["x", "run", "--ttl", "5s", "make", "-q", "--ttl", "1"],
    ] {
        let (global, Command::Run(run)) = CommandLine::parse_from(words).into_command().unwrap()
        else {
            panic!("not a run");
        };
        assert_eq!(run.command, ["make", "-q", "--ttl", "1"]);
        assert!(!global.quiet);
    }
}
