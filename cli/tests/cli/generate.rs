//! `completions` and `man`.

use std::fs;
use std::process::Command;

use insta::assert_snapshot;

use crate::sandbox::Sandbox;

const NOWHERE: &str = "http://127.0.0.1:9";

/// What a shell says that reads its completions and then asks for some.
fn completed_by(shell: &str, script: &str) -> Vec<String> {
    let sandbox = Sandbox::at(NOWHERE);
    let file = sandbox.path("completions");
    let printed = sandbox.program(&format!("completions {shell}"));
    let output = { printed }.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    fs::write(&file, output.stdout).unwrap();
    let mut command = Command::new(shell);
    command.args(["-c", script]);
    sandbox.hermetic(&mut command);
    let output = command.output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{words}");
    let words = words.lines().map(|line| line.split('\t').next().unwrap());
    words.map(str::to_owned).collect()
}

#[test]
fn shells_complete_commands_and_formats() {
    // As readline would call it for `setup-remote-docker st<TAB>`.
    let bash = |words: &str, place: usize| {
        format!(
            "source completions; COMP_WORDS=({words}); COMP_CWORD={place}
            _setup__remote__docker setup-remote-docker \
                \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
            printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
    };
    let start_stop = ["start", "stop"];
    assert_eq!(
        completed_by("bash", &bash("setup-remote-docker st", 1)),
        start_stop
    );
    assert_eq!(
        completed_by("bash", &bash("setup-remote-docker show --format t", 3)),
        ["text"]
    );
    let fish = |line: &str| format!("source completions; complete -C '{line}'");
    assert_eq!(
        completed_by("fish", &fish("setup-remote-docker st")),
        start_stop
    );
    assert_eq!(
        completed_by("fish", &fish("setup-remote-docker show --format t")),
        ["text"]
    );
    // Zsh completes on a terminal only; that it takes the definition is what can be seen here.
    let zsh = "autoload -U compinit; compinit -D -u; source ./completions; whence -w _setup-remote-docker";
    assert_eq!(completed_by("zsh", zsh), ["_setup-remote-docker: function"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let sandbox = Sandbox::at(NOWHERE);
    let shown = sandbox.show(&mut sandbox.program("man pages/man1"));
    assert_eq!(shown, "exit status: 0\n--- stdout\n--- stderr\n");
    let folder = sandbox.path("pages/man1");
    let mut pages: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert_snapshot!("pages", pages.join("\n"));
    let stop = fs::read_to_string(folder.join("setup-remote-docker-stop.1")).unwrap();
    assert_snapshot!("page_of_stop", stop);

    fs::write(sandbox.path("file"), "").unwrap();
    assert_snapshot!(
        "pages_without_a_place",
        sandbox.show(&mut sandbox.program("man file/man1"))
    );
}
