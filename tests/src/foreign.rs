//! Programs for another processor, where no registry has one: written here, byte by byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Machine;
use crate::process::{run, said, succeed};

/// What the program prints: the kernel's name of its processor.
const PROCESSOR: &str = "aarch64";
const PLATFORM: &str = "--platform=linux/arm64";

/// Asks the kernel for the processor's name, prints it and ends well.
const CODE: [u32; 13] = [
    0xd108_03ff, // sub sp, sp, #512
    0x9100_03e0, // mov x0, sp
    0xd280_1408, // mov x8, #160: uname
    0xd400_0001, // svc #0
    0xd280_0020, // mov x0, #1
    0x9104_13e1, // add x1, sp, #260: after four fields of 65 bytes
    0xd280_00e2, // mov x2, #7: the length of the name
    0xd280_0808, // mov x8, #64: write
    0xd400_0001, // svc #0
    0xd280_0000, // mov x0, #0
    0xd280_0ba8, // mov x8, #93: exit
    0xd400_0001, // svc #0
    0xd420_0000, // brk #0: not reached
];

/// Where the program lies in memory.
const BASE: u64 = 0x40_0000;
/// Bytes of the two headers.
const HEADERS: u16 = 64 + 56;

/// The program: ELF of 64 bits, one part that is read and run.
fn program() -> Vec<u8> {
    let code = bytes(&CODE, |word| word.to_le_bytes().to_vec());
    let size = u64::from(HEADERS) + code.len() as u64;
    let shorts = |values: &[u16]| bytes(values, |it| it.to_le_bytes().to_vec());
    let words = |values: &[u32]| bytes(values, |it| it.to_le_bytes().to_vec());
    let longs = |values: &[u64]| bytes(values, |it| it.to_le_bytes().to_vec());
    [
        // 64 bits, the lower byte first, version 1.
        b"\x7fELF\x02\x01\x01".to_vec(),
        vec![0; 9],
        // An executable for AArch64.
        shorts(&[2, 183]),
        words(&[1]),
        // Where it begins; its one program header follows this one; it has no sections.
        longs(&[BASE + u64::from(HEADERS), 64, 0]),
        words(&[0]),
        shorts(&[64, 56, 1, 0, 0, 0]),
        // To be loaded, read and run.
        words(&[1, 5]),
        longs(&[0, BASE, BASE, size, size, 0x1_0000]),
        code,
    ]
    .concat()
}

fn bytes<T: Copy>(values: &[T], of: impl Fn(T) -> Vec<u8>) -> Vec<u8> {
    values.iter().flat_map(|&value| of(value)).collect()
}

/// Runs a program for another processor in a container and in a step of a build, by either builder. What they
/// print is returned.
///
/// # Panics
/// When one of them does not run.
pub fn check(machine: &Machine, folder: &Path) -> String {
    let context = folder.join("foreign");
    fs::create_dir_all(&context).expect("a folder");
    let path = context.join("program");
    fs::write(&path, program()).expect("the program");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("its mode");
    let dockerfile =
        "FROM scratch\nCOPY program /program\nRUN [\"/program\"]\nCMD [\"/program\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("the Dockerfile");

    let docker = machine.docker();
    let mut told = String::new();
    for buildkit in ["0", "1"] {
        let mut build = docker.command(["build", "--no-cache", PLATFORM, "--tag", "foreign"]);
        build.env("DOCKER_BUILDKIT", buildkit);
        if buildkit == "1" {
            build.arg("--progress=plain");
        }
        let output = run(build.arg(&context));
        let words = said(&output);
        assert!(
            output.status.success() && words.contains(PROCESSOR),
            "a step of a build: {words}"
        );
        told.push_str(&words);
        let printed = succeed(&mut docker.command(["run", "--rm", PLATFORM, "foreign"]));
        assert_eq!(printed, PROCESSOR);
        told.push_str(&format!("\ndocker run: {printed}\n"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_what_its_headers_say() {
        let program = program();
        assert_eq!(program.len(), usize::from(HEADERS) + CODE.len() * 4);
        let long = |at: usize| u64::from_le_bytes(program[at..at + 8].try_into().unwrap());
        let (entry, offset, address, size) = (long(24), long(72), long(80), long(96));
        assert_eq!((offset, size), (0, program.len() as u64));
        let begins = usize::try_from(entry - address).unwrap();
        assert_eq!(program[begins..begins + 4], CODE[0].to_le_bytes());
    }
}
