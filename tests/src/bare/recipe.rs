//! The command line of a machine of the server's, made into one that anybody can run: what libvirt hands over as
//! open descriptors is named by paths. Everything else stays, so that the machine is the same and takes the
//! template's state.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use remote_dockerd::hypervisor::{Accelerator, kernel_command_line};
use serde_json::Value;

/// What a clone is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    arguments: Vec<String>,
}

/// How a machine comes to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Out of the template's memory.
    Clone,
    /// By booting the image.
    Boot,
}

/// Files that belong to one machine.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) folder: &'a Path,
    pub(super) tap: &'a str,
}

impl Places<'_> {
    pub(super) fn monitor(&self) -> PathBuf {
        self.folder.join("monitor")
    }

    pub(super) fn channel(&self) -> PathBuf {
        self.folder.join("channel")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }
}

impl Recipe {
    /// Reads it off a clone that runs.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn of(machine: Pid) -> Self {
        let line = fs::read_to_string(format!("/proc/{machine}/cmdline")).expect("a machine");
        let arguments = line.split_terminator('\0').skip(1).map(str::to_owned);
        Self {
            arguments: arguments.collect(),
        }
    }

    /// The folder of the template that its memory comes from.
    ///
    /// # Panics
    /// When it is no clone.
    #[must_use]
    pub fn template(&self) -> PathBuf {
        let memory = self.arguments.iter().find(|it| is_template_memory(it));
        let path = memory.and_then(|object| option(object, "mem-path"));
        let path = path.expect("the memory of a clone is a file");
        Path::new(path).parent().expect("a folder").to_owned()
    }

    /// The disk that the machine's own lies over.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn backing(&self, start: Start) -> String {
        let template = self.template();
        let is_wanted = |file: &&String| match start {
            Start::Clone => Path::new(file).starts_with(&template),
            Start::Boot => !Path::new(file).starts_with(&template) && !is_own_disk(file),
        };
        let nodes = self.arguments.iter().filter_map(|it| blockdev(it));
        let files: Vec<String> = nodes
            .filter_map(|node| Some(node["filename"].as_str()?.to_owned()))
            .collect();
        files.iter().find(is_wanted).expect("a disk below").clone()
    }

    pub(super) fn arguments(&self, start: Start, places: &Places<'_>) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut given = self.arguments.iter().peekable();
        while let Some(name) = given.next() {
            // An option's value begins with no dash.
            let value = given.next_if(|next| !next.starts_with('-'));
            let Some(value) = value else {
                arguments.push(name.clone());
                continue;
            };
            if let Some(value) = self.value(name, value, start, places) {
                arguments.extend([name.clone(), value]);
            }
        }
        if start == Start::Boot {
            arguments.extend(self.kernel());
        }
        arguments
    }

    /// What a clone has in memory, and a machine that boots is given.
    fn kernel(&self) -> [String; 6] {
        let disk = PathBuf::from(self.backing(Start::Boot));
        let file = |name| disk.with_file_name(name).display().to_string();
        let mut given = self.arguments.iter().zip(self.arguments.iter().skip(1));
        let is_emulated = given.any(|(name, value)| name == "-accel" && value == "tcg");
        let accelerator = if is_emulated {
            Accelerator::Tcg
        } else {
            Accelerator::Kvm
        };
        let told = kernel_command_line(accelerator, false);
        let options = ["-kernel", "-initrd", "-append"].map(str::to_owned);
        let [kernel, initrd, append] = options;
        [
            kernel,
            file("vmlinuz"),
            initrd,
            file("initrd.img"),
            append,
            told,
        ]
    }

    /// The value that an option gets in this one's place; `None` leaves the option out.
    fn value(&self, name: &str, value: &str, start: Start, at: &Places<'_>) -> Option<String> {
        let is_clone = start == Start::Clone;
        let socket = |path: PathBuf, id: &str| {
            format!("socket,id={id},path={},server=on,wait=off", path.display())
        };
        let kept = Some(value.to_owned());
        match name {
            // Keys of libvirt's own, and the file that the console is written to.
            "-object" if value.contains("masterKey0") => None,
            "-add-fd" => None,
            "-object" if is_template_memory(value) && !is_clone => None,
            "-incoming" if !is_clone => None,
            "-name" => Some("guest=bare".to_owned()),
            "-machine" if !is_clone => Some(value.replace(",memory-backend=guest-memory", "")),
            "-chardev" => match option(value, "id")? {
                id @ "charmonitor" => Some(socket(at.monitor(), id)),
                id @ "charchannel0" => Some(socket(at.channel(), id)),
                "charserial0" => {
                    let console = at.folder.join("console");
                    Some(format!("file,id=charserial0,path={}", console.display()))
                }
                _ => kept,
            },
            "-netdev" => Some(format!(
                r#"{{"type":"tap","ifname":"{}","script":"no","downscript":"no","id":"hostnet0"}}"#,
                at.tap
            )),
            "-blockdev" => self.disk(value, start, at),
            _ => kept,
        }
    }

    fn disk(&self, value: &str, start: Start, at: &Places<'_>) -> Option<String> {
        let mut node = blockdev(value)?;
        if node["filename"].as_str().is_some_and(is_own_disk) {
            node["filename"] = at.disk().to_str()?.into();
        }
        // The machine's own disk is the one that is written to; the image's is the last of the chain.
        if start == Start::Boot && node["read-only"] == false {
            let nodes = self.arguments.iter().filter_map(|it| blockdev(it));
            let mut last = nodes.filter(|node| node.get("backing").is_some_and(Value::is_null));
            node["backing"] = last.next()?["node-name"].clone();
        }
        Some(node.to_string())
    }
}

fn blockdev(value: &str) -> Option<Value> {
    let node: Value = serde_json::from_str(value).ok()?;
    node.get("node-name").is_some().then_some(node)
}

fn is_own_disk(file: impl AsRef<str>) -> bool {
    file.as_ref().contains("/vms/vm-")
}

fn is_template_memory(value: impl AsRef<str>) -> bool {
    value.as_ref().starts_with("memory-backend-file,")
}

/// The value of `name=` in a list with commas.
fn option<'v>(value: &'v str, name: &str) -> Option<&'v str> {
    value
        .split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let arguments = [
            "-name",
            "guest=vm-1,debug-threads=on",
            "-S",
            "-object",
            r#"{"qom-type":"secret","id":"masterKey0","file":"/s/key"}"#,
            "-machine",
            "pc-q35-10.0,memory-backend=pc.ram",
            "-accel",
            "tcg",
            "-chardev",
            "socket,id=charmonitor,fd=45,server=on,wait=off",
            "-mon",
            "chardev=charmonitor,id=monitor,mode=control",
            "-blockdev",
            r#"{"driver":"file","filename":"/i/disk.qcow2","node-name":"3s"}"#,
            "-blockdev",
            r#"{"node-name":"3f","read-only":true,"file":"3s","backing":null}"#,
            "-blockdev",
            r#"{"driver":"file","filename":"/s/templates/k/1/disk.qcow2","node-name":"2s"}"#,
            "-blockdev",
            r#"{"node-name":"2f","read-only":true,"file":"2s","backing":"3f"}"#,
            "-blockdev",
            r#"{"driver":"file","filename":"/s/vms/vm-1/disk.qcow2","node-name":"1s"}"#,
            "-blockdev",
            r#"{"node-name":"1f","read-only":false,"file":"1s","backing":"2f"}"#,
            "-netdev",
            r#"{"type":"tap","fd":"48","id":"hostnet0"}"#,
            "-add-fd",
            "set=0,fd=24,opaque=serial0-source",
            "-chardev",
            "file,id=charserial0,path=/dev/fdset/0,append=on",
            "-chardev",
            "socket,id=charchannel0,fd=44,server=on,wait=off",
            "-object",
            "memory-backend-file,id=guest-memory,size=1024M,mem-path=/s/templates/k/1/memory,share=off",
            "-machine",
            "i8042=off,memory-backend=guest-memory",
            "-incoming",
            "defer",
        ];
        Recipe {
            arguments: arguments.map(str::to_owned).to_vec(),
        }
    }

    fn made(start: Start) -> Vec<String> {
        recipe().arguments(
            start,
            &Places {
                folder: Path::new("/b"),
                tap: "t0",
            },
        )
    }

    #[test]
    fn a_clone_keeps_the_template_and_names_what_was_handed_over() {
        let made = made(Start::Clone);
        let all = made.join(" ");
        assert!(all.starts_with("-name guest=bare -S -machine pc-q35-10.0,memory-backend=pc.ram"));
        assert!(!all.contains("-kernel"));
        for kept in [
            "mem-path=/s/templates/k/1/memory,share=off",
            "i8042=off,memory-backend=guest-memory",
            "-incoming defer",
            "socket,id=charmonitor,path=/b/monitor,server=on,wait=off",
            "socket,id=charchannel0,path=/b/channel,server=on,wait=off",
            "file,id=charserial0,path=/b/console",
            r#""filename":"/b/disk.qcow2""#,
            r#""backing":"2f""#,
            r#""ifname":"t0""#,
        ] {
            assert!(all.contains(kept), "{kept} in {all}");
        }
        for gone in ["fd=", "fdset", "masterKey0", "/vms/"] {
            assert!(!all.contains(gone), "{gone} in {all}");
        }
        assert_eq!(recipe().template(), Path::new("/s/templates/k/1"));
        assert_eq!(
            recipe().backing(Start::Clone),
            "/s/templates/k/1/disk.qcow2"
        );
    }

    #[test]
    fn a_boot_has_nothing_of_the_template() {
        let made = made(Start::Boot);
        let all = made.join(" ");
        for gone in ["memory-backend-file", "guest-memory", "-incoming", "defer"] {
            assert!(!all.contains(gone), "{gone} in {all}");
        }
        let own = made.iter().find(|it| it.contains(r#""read-only":false"#));
        assert!(own.unwrap().contains(r#""backing":"3f""#));
        assert!(all.contains("i8042=off"));
        assert!(all.contains("-kernel /i/vmlinuz -initrd /i/initrd.img -append quiet "));
        assert!(made.iter().any(|it| it.ends_with(" tsc=reliable")));
        assert_eq!(recipe().backing(Start::Boot), "/i/disk.qcow2");
    }
}
