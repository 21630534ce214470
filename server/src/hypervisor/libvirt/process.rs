//! The QEMU process of a VM, found by the file in which libvirt notes its number and made sure of
//! before anything is done to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::ids::VmId;

/// How much likelier than the server a VM is taken when memory runs out.
const LIKELIER: i32 = 500;
/// The kernel's largest score.
const MAX_SCORE: i32 = 1000;

/// A process that was a VM's QEMU when it was found. Signals go to it and never to a later process
/// of the same number.
#[derive(Debug)]
pub(super) struct Qemu {
    pid: i32,
    handle: OwnedFd,
}

impl Qemu {
    /// The VM's process, if there is one. `run` is the folder in which libvirt notes processes.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub(super) fn find(run: &Path, vm: VmId) -> io::Result<Option<Self>> {
        let path = run.join(format!("{vm}.pid"));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 1) else {
            return Ok(None);
        };
        let Some(handle) = open(pid)? else {
            return Ok(None);
        };
        // The number may be another's by now: the file outlives a crash of the host. What is read
        // after the handle was opened is about its process, or that process has ended.
        let command = fs::read(proc(pid, "cmdline")).unwrap_or_default();
        Ok(is_qemu_of(&command, vm).then_some(Self { pid, handle }))
    }

    /// Its number.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Lets the kernel take this process before the server when memory runs out.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn sacrifice_first(&self) -> io::Result<()> {
        let own = fs::read_to_string("/proc/self/oom_score_adj")?;
        let score = score_above(own.trim().parse().unwrap_or(0));
        fs::write(proc(self.pid, "oom_score_adj"), score.to_string())
    }

    /// Ends the process at once and waits until it is gone. Its disk is thrown away, so there is
    /// nothing that it should still do. Tells whether it is gone.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn kill(&self, limit: Duration) -> io::Result<bool> {
        // SAFETY: the descriptor is open; a null info asks for what kill(2) does.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.handle.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                return Err(error);
            }
        }
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut ended = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ended, timeout)? == 0 {
            return Ok(false);
        }
        // Our child if it was started since the server was; otherwise init takes leave of it.
        let _ = waitid(
            Id::PIDFd(self.handle.as_fd()),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
        );
        Ok(true)
    }
}

fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    // SAFETY: takes two numbers and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Some(descriptor) = i32::try_from(descriptor).ok().filter(|fd| *fd >= 0) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(None),
            _ => Err(error),
        };
    };
    // SAFETY: the kernel just returned it; nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

fn proc(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// Whether a command line, as in `/proc`, is that of the VM's QEMU: libvirt names the guest in it.
fn is_qemu_of(command: &[u8], vm: VmId) -> bool {
    let name = format!("guest={vm}");
    command.split(|byte| *byte == 0).any(|argument| {
        argument
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b","))
    })
}

fn score_above(own: i32) -> i32 {
    own.saturating_add(LIKELIER).clamp(0, MAX_SCORE)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that calls itself as libvirt would call the VM's QEMU.
    fn pretender(vm: VmId) -> Child {
        let name = format!("guest={vm},debug-threads=on");
        let mut command = Command::new("sh");
        // Waits for input in the shell itself: a child of it would outlive the test.
        command.args(["-c", "read line", "qemu", "-name", &name]);
        command.stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_ours_only_by_its_guest_name() {
        let vm = VmId::from_bits(1);
        let line = |text: String| text.replace(' ', "\0").into_bytes();
        assert!(is_qemu_of(
            &line(format!(
                "/usr/bin/qemu -name guest={vm},debug-threads=on -S"
            )),
            vm
        ));
        assert!(is_qemu_of(&line(format!("qemu -name guest={vm}")), vm));
        for other in [
            String::new(),
            "qemu -name guest=vm-0000000000002,debug-threads=on".into(),
            format!("qemu -name guest={vm}x"),
            format!("vi {vm}"),
        ] {
            assert!(!is_qemu_of(&line(other.clone()), vm), "{other}");
        }
    }

    #[test]
    fn the_right_process_is_killed_and_no_other() {
        let run = tempfile::tempdir().unwrap();
        let (vm, other) = (VmId::from_bits(1), VmId::from_bits(2));
        let note = |vm: VmId, pid: &str| {
            fs::write(run.path().join(format!("{vm}.pid")), pid).unwrap();
        };
        assert!(Qemu::find(run.path(), vm).unwrap().is_none(), "no file");
        for rubbish in ["", "x", "0", "1", "-1", "99999999"] {
            note(vm, rubbish);
            assert!(Qemu::find(run.path(), vm).unwrap().is_none(), "{rubbish}");
        }
        let mut child = pretender(vm);
        note(vm, &format!("{}\n", child.id()));
        note(other, &child.id().to_string());
        // Stale: the number belongs to another VM's process now.
        assert!(Qemu::find(run.path(), other).unwrap().is_none());
        // The name stands there only once the shell has replaced this program.
        let found = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            Qemu::find(run.path(), vm).unwrap()
        });
        let found = found.expect("the process");
        found.sacrifice_first().unwrap();
        let score = fs::read_to_string(proc(found.pid, "oom_score_adj")).unwrap();
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert!(score.trim().parse::<i32>().unwrap() > own.trim().parse().unwrap());
        assert!(found.kill(Duration::from_secs(20)).unwrap());
        assert!(Qemu::find(run.path(), vm).unwrap().is_none());
        assert!(found.kill(Duration::from_secs(1)).unwrap(), "gone is gone");
        let _ = child.wait();
    }

    #[test]
    fn the_score_is_above_the_servers_and_valid() {
        assert_eq!(score_above(0), 500);
        assert_eq!(score_above(-1000), 0);
        assert_eq!(score_above(900), 1000);
    }
}
