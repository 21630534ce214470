use std::process::Command;

use super::*;

#[test]
fn a_shell_reads_back_exactly_what_was_quoted() {
    for text in [
        "plain",
        "",
        "it's",
        "'; touch /tmp/owned; '",
        "$(id) `id` ${HOME} \\ \" ! * ~",
        "line\nbreak",
        "-n",
    ] {
        let script = format!("printf %s {}", sh_quote(text));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    }
}

#[test]
fn only_a_host_and_a_port_make_a_docker_host() {
    for good in [
        "tcp://127.0.0.1:23760",
        "tcp://[::1]:1",
        "tcp://build-3.example:65535",
        "tcp://under_score:2376",
    ] {
        assert!(is_docker_host(good), "{good}");
    }
    for bad in [
        "",
        "tcp://",
        "tcp://:1",
        "tcp://host",
        "tcp://host:",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:+1",
        "tcp://host:1/x",
        "tcp://[::1:1",
        "tcp://[zz]:1",
        "tcp://::1:1",
        "tcp://user@host:1",
        "tcp://-oProxyCommand=x:1",
        "tcp://host:1\n",
        "tcp://ho'st:1",
        "tcp://ho$(id)st:1",
        "tcp://ho\x1bst:1",
        "unix:///var/run/docker.sock",
        "ssh://host:1",
    ] {
        assert!(!is_docker_host(bad), "{bad:?}");
    }
    let long = format!("tcp://{}:1", "a".repeat(254));
    assert!(!is_docker_host(&long));
}

#[test]
fn a_terminal_obeys_nothing_of_what_is_shown() {
    let hostile = "a\x1b[2Jb\r\nc\u{9b}31m\u{202e}d\u{200b}\0";
    let shown = visible(hostile, 100);
    assert_eq!(
        shown,
        "a\\u{1b}[2Jb\\r\\nc\\u{9b}31m\\u{202e}d\\u{200b}\\u{0}"
    );
    assert_eq!(visible("abcdef", 3), "abc…");
    assert_eq!(visible("größe ✓", 100), "größe ✓");
}

#[test]
fn json_keeps_its_meaning_and_holds_no_control_characters() {
    let hostile = "a\x1b\u{9b}\u{202e}\n\"é";
    let line = json_line(&[hostile]);
    let body = line.strip_suffix('\n').unwrap();
    assert!(!body.chars().any(is_dangerous), "{body:?}");
    assert_eq!(
        serde_json::from_str::<Vec<String>>(body).unwrap(),
        [hostile]
    );
}

#[test]
fn a_hostile_list_stays_one_line_per_lease() {
    let lease: Lease = serde_json::from_value(serde_json::json!({
        "id": "l-0000000000001", "state": "active", "engine": "28\n\x1b[2J", "size": "x\ty",
        "ttl_s": 1, "created_at": "2026-01-31T12:00:00Z", "labels": {"a\r": "b"},
        "docker": {"host": "tcp://\u{9b}", "ca_pem": "", "cert_pem": ""},
    }))
    .unwrap();
    let text = table(&LeaseList {
        leases: vec![lease],
    });
    assert_eq!(text.lines().count(), 2);
    assert!(
        !text.replace('\n', "").chars().any(is_dangerous),
        "{text:?}"
    );
}
