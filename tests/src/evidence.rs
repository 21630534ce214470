//! What is known about a test that failed: printed in parts, kept in full.

use std::fs;
use std::path::Path;

use crate::process::text;

const LINES: usize = 60;

/// Copies logs, consoles and definitions of a test's server to `to` and prints their ends.
pub(crate) fn keep(root: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    if let Err(error) = fs::create_dir_all(to) {
        eprintln!("no evidence can be kept in {}: {error}", to.display());
        return;
    }
    eprintln!("evidence is kept in {}", to.display());
    collect(root, root, to);
}

fn collect(root: &Path, folder: &Path, to: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(root, &path, to);
            continue;
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let relative = path.strip_prefix(root).unwrap_or(&path);
        if !["log", "xml", "toml"].contains(&extension.as_ref())
            // libvirt's list of what QEMU can do says nothing about a test.
            || relative.components().any(|part| part.as_os_str() == "cache")
        {
            continue;
        }
        let name = relative.to_string_lossy().replace('/', "_");
        let _ = fs::copy(&path, to.join(name));
        // What libvirt notes of each QEMU is mostly its command line: kept, but too long to print.
        if extension == "log" && !relative.starts_with("state/libvirt") {
            print_end(relative, &path);
        }
    }
}

fn print_end(name: &Path, path: &Path) {
    let content = text(&fs::read(path).unwrap_or_default());
    let lines: Vec<_> = content.lines().collect();
    let start = lines.len().saturating_sub(LINES);
    eprintln!("--- end of {} ({} lines)", name.display(), lines.len());
    for line in &lines[start..] {
        eprintln!("{line}");
    }
}
