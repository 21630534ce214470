//! Images and templates on disk: how they come, which is used, and that damage to them is noticed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use e2e::TestServer;
use e2e::process::succeed;
use nix::sys::stat::{Mode, umask};

/// `remote-dockerd image` with the server's configuration.
fn image(server: &TestServer, args: &[&str]) -> Command {
    let mut command = Command::new(server.setting().server());
    command
        .env_clear()
        .args(["image", args[0], "--config"])
        .arg(server.root().join("config.toml"))
        .args(&args[1..]);
    command
}

/// What it says about what it did.
fn words(server: &TestServer, args: &[&str]) -> String {
    let output = image(server, args).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {words}");
    words
}

#[test]
fn an_imported_image_serves_leases_and_stays_as_long_as_it_is_needed() {
    let (mut server, _) = TestServer::builder()
        .without_shared_template()
        .set("images_dir", "images")
        // Which those that try an image out are told as well.
        .set("site.mtu", 1400)
        .prepare();
    let config = server.root().join("config.toml");
    let images = server.root().join("own/images");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("\"images\"", &format!("\"{}\"", images.display()));
    fs::write(&config, text).unwrap();
    let built = server.setting().image();
    let mut import = image(&server, &["import", built.to_str().unwrap()]);
    // QEMU's user reads the images of those as well who let nobody else read what they make.
    // SAFETY: umask is a plain system call, which may be made between fork and exec.
    unsafe {
        import.pre_exec(|| {
            umask(Mode::from_bits_truncate(0o077));
            Ok(())
        });
    }
    let name = succeed(&mut import);
    let name = name.trim();
    let listed = || succeed(&mut image(&server, &["list", "--format", "json"]));
    assert!(listed().contains("\"in_use\"") && listed().contains("\"tested_at\": null"));
    let said = words(&server, &["test", name]);
    assert!(
        said.contains("passed") && said.contains("built and run"),
        "{said}"
    );
    assert!(!listed().contains("\"tested_at\": null"), "{}", listed());
    let left = fs::read_dir("/var/tmp")
        .unwrap()
        .filter_map(|it| it.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|it| it.starts_with("rd-trial-")).count(), 0);

    server.spawn(None);
    server.wait_ready();
    let machine = server.lease();
    machine.docker().ok(["version"]);
    assert!(words(&server, &["retire", name]).contains("offered no more"));
    let stays = format!("{name} stays: ");
    let said = words(&server, &["gc"]);
    assert!(said.starts_with(&format!("{stays}a server")), "{said}");
    // The machine outlives the server, and its disk reads through to the image.
    server.stop();
    let said = words(&server, &["gc"]);
    assert!(said.starts_with(&format!("{stays}a template")), "{said}");
    let (templates, away) = (server.state().join("templates"), server.root().join("away"));
    fs::rename(&templates, &away).unwrap();
    let said = words(&server, &["gc"]);
    assert!(said.starts_with(&format!("{stays}a machine")), "{said}");
    fs::rename(&away, &templates).unwrap();

    // The next server needs an image, and this one is whole.
    fs::remove_file(images.join(format!("{name}.retired"))).unwrap();
    server.start_again();
    machine.docker().ok(["version"]);
    server.api().release(machine.id());
    server.wait_clean();
}

/// Changes one byte in the middle of a file whose other names keep what they have. Neither its size nor its
/// time tells.
fn change_one_byte(path: &Path) {
    let draft = path.with_extension("draft");
    succeed(
        Command::new("cp")
            .args(["--sparse=always", "--preserve"])
            .args([path, &draft]),
    );
    let written = fs::metadata(path).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&draft)
        .unwrap();
    use std::os::unix::fs::FileExt;
    let middle = written.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.set_modified(written.modified().unwrap()).unwrap();
    fs::rename(&draft, path).unwrap();
}

#[test]
fn a_template_with_one_wrong_byte_is_built_again_before_anybody_gets_a_machine_of_it() {
    let mut server = TestServer::start();
    let machine = server.lease();
    server.api().release(machine.id());
    server.wait_clean();
    server.stop();
    let templates = server.state().join("templates");
    let key = fs::read_dir(&templates).unwrap().next().unwrap().unwrap();
    let generation = fs::read_dir(key.path()).unwrap().next().unwrap().unwrap();
    change_one_byte(&generation.path().join("memory"));
    server.start_again();
    server.lease().docker().ok(["version"]);
    let log = server.log();
    assert!(log.contains("was damaged on disk"), "{log}");
    assert!(log.contains("building the template"), "{log}");
}

/// A disk may lose a bit while a server runs as well. The kernel does not tell; whoever writes to it does.
#[test]
fn a_template_that_is_written_to_under_a_running_server_makes_no_machine() {
    let server = TestServer::start();
    let before = server.lease();
    let templates = server.state().join("templates");
    let key = fs::read_dir(&templates).unwrap().next().unwrap().unwrap();
    let generation = fs::read_dir(key.path()).unwrap().next().unwrap().unwrap();
    change_one_byte(&generation.path().join("memory"));
    server.lease().docker().ok(["version"]);
    let log = server.log();
    assert!(log.contains("was replaced or changed"), "{log}");
    before.docker().ok(["version"]);
}
