//! Docker's clients for Python, with nothing but the variables that `run` gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::process::{said, text};
use e2e::setting::python;
use e2e::{TestServer, tree, until};

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    folder.join(name).canonicalize().unwrap()
}

#[test]
fn docker_py_builds_and_runs() {
    let server = TestServer::start();
    let cli = server.cli();
    let context = server.root().join("context");
    tree::write_busybox(&context.join("tree"));
    let dockerfile = "FROM scratch\nCOPY tree /\nRUN echo made > /made\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();

    let mut command = cli.command(["run", "--"]);
    command.arg(python());
    command.args([&script("docker_py.py"), &context]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(text(&done.stdout), "run\nmade\nerr\nremoved");
    until(
        "no lease is left",
        Duration::from_secs(60),
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
}
