//! Where packages of an image come from, and in which version: `--pin`, and sources that are not Debian's.
//!
//! mmdebstrap and APT are the real ones. They are given archives of empty packages, so that a build takes seconds:
//! there is no Debian in these images, and a stand-in for the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::process::{bounded, fail, succeed};
use e2e::setting::Setting;

use super::{PATIENCE, script};

/// An archive that somebody has signed, with one package, and the key. Nobody has the other half of the key any
/// more, so nothing in there can be changed.
const SIGNED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/recipe/signed");

/// Stands before the real one: Debian's essential packages are left out, and so is all that is fetched by name.
const MMDEBSTRAP: &str = r#"#!/bin/bash
arguments=()
for argument in "$@"; do
    case $argument in
        --variant=essential) arguments+=(--variant=custom --mode=chrootless) ;;
        --customize-hook=*) arguments+=("--customize-hook=${0%/*}/hook \"\$1\"") ;;
        *) arguments+=("$argument") ;;
    esac
done
PATH=${PATH#*:}
exec mmdebstrap "${arguments[@]}"
"#;

/// Leaves what `rootfs-hook.sh` leaves, with words in the place of programs.
const HOOK: &str = r#"#!/bin/bash
set -euo pipefail
image=$1/.image modules=$1/usr/lib/modules/6.0
mkdir -p "$image"/{client/cli-plugins,initrd-modules} "$modules" "$1"/{etc,usr/sbin}
for file in vmlinuz initrd-modules/00-disk.ko client/docker client/cli-plugins/docker-{buildx,compose}; do
    echo "$file" >"$image/$file"
    chmod 755 "$image/$file"
done
echo 6.0 >"$image/kernel-version"
echo 1.45 >"$image/docker-api-version"
sed 's/#.*//; s/\([^ ]\+\).*/\1.ko:/' RECIPE/files/etc/modules-load.d/docker.conf >"$modules/modules.dep"
touch "$modules/modules.builtin"
echo 'root:*:1:0:99999:7:::' >"$1/etc/shadow"
dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${Package}\t${Version}\n' >"$image/packages"
"#;

/// What every image has, by the recipe.
fn of_every_guest(recipe: &Path) -> Vec<String> {
    let list = fs::read_to_string(recipe.join("packages")).unwrap();
    let name = |line: &str| {
        let name = line.split('#').next().unwrap_or_default().trim();
        (!name.is_empty()).then(|| name.to_owned())
    };
    list.lines().filter_map(name).collect()
}

/// Adds an empty package to an archive.
fn add(archive: &Path, name: &str, version: &str) {
    let package = archive.join("package");
    fs::create_dir_all(package.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\n\
         Maintainer: Nobody <nobody@example.org>\nDescription: nothing\n"
    );
    fs::write(package.join("DEBIAN/control"), &control).unwrap();
    for folder in [&package, &package.join("DEBIAN")] {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let file = format!("{name}_{version}.deb");
    let path = archive.join(&file);
    let mut build = bounded(PATIENCE, "dpkg-deb");
    build.args(["--root-owner-group", "--build"]);
    succeed(build.arg(&package).arg(&path));
    fs::remove_dir_all(&package).unwrap();
    let size = fs::metadata(&path).unwrap().len();
    let sum = succeed(bounded(PATIENCE, "sha256sum").arg(&path));
    let sum = sum.split_whitespace().next().unwrap();
    let entry = format!("{control}Filename: ./{file}\nSize: {size}\nSHA256: {sum}\n\n");
    let index = archive.join("Packages");
    let before = fs::read_to_string(&index).unwrap_or_default();
    fs::write(&index, before + &entry).unwrap();
}

/// A folder with an archive, in which the engine `engine` is to be had as 1.0 and as 2.0.
struct Bench {
    folder: tempfile::TempDir,
    setting: Setting,
    others: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // APT reads as a user of its own.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let recipe = script().with_file_name("recipe");
        let (archive, programs) = (folder.path().join("archive"), folder.path().join("bin"));
        fs::create_dir(&archive).unwrap();
        fs::create_dir(&programs).unwrap();
        let hook = HOOK.replace("RECIPE", recipe.to_str().unwrap());
        for (name, text) in [("mmdebstrap", MMDEBSTRAP), ("hook", &hook)] {
            let path = programs.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let others = of_every_guest(&recipe);
        for name in &others {
            add(&archive, name, "1.0");
        }
        for version in ["1.0", "2.0"] {
            add(&archive, "engine", version);
        }
        Self {
            folder,
            setting: Setting::find(),
            others,
        }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("images/trixie")
    }

    /// A build of an image whose engine is `engine`, with `more` in its definition.
    fn build(&self, engine: &str, more: &str) -> Command {
        let definition = self.folder.path().join("trixie.image");
        let text =
            format!("Suite: trixie\nEngine: {engine}\nPackages: {engine}\nClient: none\n{more}");
        fs::write(&definition, text).unwrap();
        let programs = self.folder.path().join("bin");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        let archive = self.folder.path().join("archive");
        let mut build = bounded(PATIENCE, script());
        build
            .env("PATH", path)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .arg("--agent")
            .arg(self.setting.agent())
            .arg("--definition")
            .arg(&definition)
            .arg("--source")
            .arg(format!("deb [trusted=yes] copy:{} ./", archive.display()))
            .arg("--out")
            .arg(self.out());
        build
    }

    /// The manifest of an earlier image that had the engine in this version.
    fn earlier(&self, version: &str) -> PathBuf {
        let others = self.others.iter().map(|name| (name.as_str(), "1.0"));
        let all = others.chain([("engine", version)]);
        let lines = all.map(|(name, version)| {
            format!("    {{\"name\": \"{name}\", \"version\": \"{version}\"}}")
        });
        let lines: Vec<String> = lines.collect();
        let path = self.folder.path().join("earlier.json");
        let text = format!("{{\n  \"packages\": [\n{}\n  ]\n}}\n", lines.join(",\n"));
        fs::write(&path, text).unwrap();
        path
    }

    fn engine_version(&self) -> String {
        let text = fs::read_to_string(self.out().join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        manifest["engine_version"].as_str().unwrap().to_owned()
    }
}

#[test]
fn the_packages_of_an_earlier_image_are_taken_and_what_cannot_be_had_is_named() {
    let bench = Bench::new();
    let pinned = |version: &str| {
        let mut build = bench.build("engine", "");
        build.arg("--pin").arg(bench.earlier(version));
        build
    };
    // APT would take 2.0.
    succeed(&mut pinned("1.0"));
    assert_eq!(bench.engine_version(), "1.0");
    let said = fail(&mut pinned("3.0"));
    for words in [
        "the packages are not those of",
        "\n< engine 3.0\n",
        "\n> engine 2.0\n",
        "hint: an archive keeps old versions only if it is a snapshot",
    ] {
        assert!(said.contains(words), "{said}");
    }
    for other in &bench.others {
        assert!(!said.contains(&format!(" {other} ")), "{said}");
    }
    assert_eq!(bench.engine_version(), "1.0");
    let mut build = bench.build("engine", "");
    let said = fail(build.args(["--pin", "/nowhere/manifest.json"]));
    assert!(
        said.contains("cannot read /nowhere/manifest.json"),
        "{said}"
    );
}

#[test]
fn an_engine_of_a_foreign_archive_is_taken_if_its_key_says_so() {
    let bench = Bench::new();
    // Where APT's own user can read it.
    let archive = bench.folder.path().join("foreign");
    fs::create_dir(&archive).unwrap();
    for entry in fs::read_dir(SIGNED).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), archive.join(entry.file_name())).unwrap();
    }
    let with_key = |key: &str| {
        let archive = archive.display();
        let source = format!("Source: deb [signed-by={key}] copy:{archive} ./\n");
        bench.build("foreign-engine", &source)
    };
    let said = fail(&mut with_key("/nowhere/key.asc"));
    assert!(
        said.contains("cannot read /nowhere/key.asc, the key of a source")
            && said.contains("hint: "),
        "{said}"
    );
    // Debian's key has not signed it.
    let said = fail(&mut with_key(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ));
    assert!(said.contains("is not signed"), "{said}");
    assert!(!bench.out().exists());
    succeed(&mut with_key(archive.join("key.asc").to_str().unwrap()));
    assert_eq!(bench.engine_version(), "29.0.1");
}
