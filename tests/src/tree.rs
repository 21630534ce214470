//! Root file systems for images, made of the host's own programs: no registry can be reached.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{bounded, succeed};

const LIMIT: Duration = Duration::from_secs(90);

/// A root file system around the static busybox.
///
/// # Panics
/// When busybox is missing.
pub fn write_busybox(tree: &Path) {
    let bin = tree.join("bin");
    fs::create_dir_all(&bin).expect("a folder");
    for folder in ["proc", "sys", "dev", "etc", "mnt", "tmp"] {
        fs::create_dir_all(tree.join(folder)).expect("a folder");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.expect("busybox-static; run server/host/install-packages.sh");
    fs::copy(busybox, bin.join("busybox")).expect("copying busybox");
    let applets = succeed(bounded(LIMIT, busybox).arg("--list"));
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(applet)).expect("a link");
    }
}

/// Adds a program of the host at `path`, with the libraries that it loads. It is named by its path, or
/// looked for where the system has its programs.
///
/// # Panics
/// When it is missing, or is not an executable that `ldd` understands.
pub fn add_program(tree: &Path, program: &Path, path: &str) {
    let program = &find(program);
    copy(program, tree, Path::new(path));
    let libraries = succeed(bounded(LIMIT, "ldd").arg(program));
    // `libz.so.1 => /lib/libz.so.1 (0x…)`, and the loader as `/lib64/ld.so (0x…)`.
    for library in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        copy(Path::new(library), tree, Path::new(library));
    }
}

/// Adds what `apt-get install` takes, and a source: the flat repository on port 80 of the machine that
/// it runs on, which has no signature.
///
/// # Panics
/// When the host has no APT.
pub fn add_apt(tree: &Path) {
    for folder in [
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "var/cache/apt/archives/partial",
        "var/lib/apt/lists/partial",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/log/apt",
    ] {
        fs::create_dir_all(tree.join(folder)).expect("a folder");
    }
    for (path, content) in [
        ("var/lib/dpkg/status", ""),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/apt/apt.conf", "APT::Sandbox::User \"root\";\n"),
        (
            "etc/apt/sources.list",
            "deb [trusted=yes] http://127.0.0.1/ ./\n",
        ),
        // Nothing in this tree reads a cache of libraries, but dpkg insists on the program.
        ("bin/ldconfig", "#!/bin/sh\n"),
    ] {
        fs::write(tree.join(path), content).expect("a file");
    }
    succeed(
        bounded(LIMIT, "chmod")
            .arg("755")
            .arg(tree.join("bin/ldconfig")),
    );
    // busybox has some of them in a form that APT and dpkg cannot use.
    for program in ["apt-get", "dpkg", "dpkg-deb", "dpkg-split", "tar"] {
        let _ = fs::remove_file(tree.join("bin").join(program));
        let path = format!("/usr/bin/{program}");
        add_program(tree, Path::new(program), &path);
    }
    for method in ["http", "store"] {
        let path = format!("/usr/lib/apt/methods/{method}");
        add_program(tree, Path::new(&path), &path);
    }
    for table in ["cputable", "ostable", "tupletable"] {
        let path = Path::new("/usr/share/dpkg").join(table);
        copy(&path, tree, &path);
    }
}

/// Writes a flat repository with one package, which brings the program `name` that prints `words`.
///
/// # Panics
/// When `dpkg-deb` fails.
pub fn write_repository(folder: &Path, name: &str, words: &str) {
    let package = folder.join("package");
    let control = format!(
        "Package: {name}\nVersion: 1.0\nArchitecture: all\n\
         Maintainer: Nobody <nobody@example.org>\nDescription: prints some words\n"
    );
    for (path, content) in [
        ("DEBIAN/control", control.as_str()),
        (
            &format!("usr/bin/{name}"),
            &format!("#!/bin/sh\necho '{words}'\n"),
        ),
    ] {
        let path = package.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file of the package");
    }
    succeed(
        bounded(LIMIT, "chmod")
            .args(["-R", "u=rwX,go=rX"])
            .arg(&package),
    );
    succeed(
        bounded(LIMIT, "chmod")
            .arg("755")
            .arg(package.join("usr/bin").join(name)),
    );
    let archive = folder.join("package.deb");
    let mut build = bounded(LIMIT, "dpkg-deb");
    succeed(
        build
            .args(["--root-owner-group", "--build"])
            .arg(&package)
            .arg(&archive),
    );
    fs::remove_dir_all(&package).expect("removing what was packed");
    let size = fs::metadata(&archive).expect("the package").len();
    let sum = succeed(bounded(LIMIT, "sha256sum").arg(&archive));
    let sum = sum.split_whitespace().next().expect("a checksum");
    let index = format!("{control}Filename: ./package.deb\nSize: {size}\nSHA256: {sum}\n");
    fs::write(folder.join("Packages"), index).expect("the repository's index");
}

fn find(program: &Path) -> PathBuf {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new);
    // Joining an absolute path gives that path.
    let mut candidates = folders.iter().map(|folder| folder.join(program));
    let found = candidates.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("this host has no {}", program.display()))
}

/// Copies a file, or what a link leads to, into a tree under a path of its own.
fn copy(from: &Path, tree: &Path, path: &Path) {
    let to = tree.join(path.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
