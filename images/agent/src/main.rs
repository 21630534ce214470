//! PID 1 of a guest, with two lives. As `/init` of the initramfs it finds the disk and moves there
//! ([`initramfs`]). From the disk it brings Docker up, keeps it up, and does what the server asks
//! for over a virtio-serial port, so that it needs no network to be managed ([`boot`]).
//!
//! It is called in the place of `runc` in two further ways: where the site has a proxy ([`runtime`]), and by `dockerd`
//! ([`repeat`]).
//!
//! Whatever cannot be mended ends the guest: the reason goes to the console, the power goes off, and
//! the server makes another one.

mod activate;
mod agent;
mod binfmt;
mod boot;
mod cgroups;
mod channel;
mod clock;
mod connections;
mod console;
mod daemon_log;
mod disk;
mod docker;
mod entropy;
mod identity;
mod initramfs;
mod keys;
mod kmsg;
mod listener;
#[cfg(test)]
mod listener_tests;
mod liveness;
mod logs;
mod mounts;
mod net;
mod netlink;
mod oom;
mod phase;
mod port;
mod proxy;
mod quiesce;
mod readiness;
mod reaper;
mod repeat;
mod runtime;
mod site;
mod ssh;
mod supervise;
mod tls;
#[cfg(test)]
mod tls_tests;
mod traffic;

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;

use console::say;

/// Where the kernel finds the first life. The second one is [`initramfs::AGENT`].
const INIT: &str = "/init";

fn main() -> ExitCode {
    if runtime::is_meant(std::env::args_os().next().as_deref()) {
        return runtime::run();
    }
    if let Some(arguments) = repeat::is_meant(std::env::args_os()) {
        return repeat::run(&arguments);
    }
    if std::process::id() != 1 {
        // Whoever builds an image notes it, so that a server knows beforehand whom it will talk to.
        if std::env::args_os()
            .nth(1)
            .is_some_and(|arg| arg == "--protocol")
        {
            let written = writeln!(std::io::stdout(), "{}", guest_protocol::VERSION);
            return ExitCode::from(u8::from(written.is_err()));
        }
        // It would mount, reap and power off; nobody wants that on a machine they care for.
        say!("guest-agent is PID 1 of a guest and does nothing elsewhere");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|info| say!("panic: {info}")));
    let in_initramfs = std::env::args_os().next().is_some_and(|name| name == INIT);
    let outcome = std::panic::catch_unwind(|| -> anyhow::Result<Infallible> {
        if in_initramfs {
            initramfs::run()
        } else {
            boot::run()
        }
    });
    match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => console::power_off(&format!("{error:#}")),
        Err(_) => console::power_off("a panic, see above"),
    }
}

/// Makes it no longer than this.
fn cut(text: &mut String, max_bytes: usize) {
    while text.len() > max_bytes {
        text.pop();
    }
}
