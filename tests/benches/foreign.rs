//! Whether machines of the image that brings QEMU's user mode run programs for other processors. `make test-foreign`
//! runs it. The tests do not: it takes an image of its own, whose template alone takes a minute under emulation.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people that fails by panicking"
)]

use std::path::PathBuf;

use clap::Parser;
use e2e::Builder;
use e2e::foreign::check;
use e2e::setting::Setting;

/// Runs a program for AArch64 on a leased machine, in a container and in builds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of images, with the one that runs programs for other processors
    #[arg(long)]
    images: PathBuf,
    /// Folder of the programs [default: that of this one]
    #[arg(long)]
    bin: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let server = Builder::new(Setting::foreign(bin, arguments.images)).start();
    let machine = server.lease();
    println!("{}", check(&machine, server.root()));
    println!("programs for other processors run in containers and in builds");
}
