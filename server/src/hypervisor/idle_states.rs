//! What tells a guest's kernel that its processors can halt: a table of ACPI (an SSDT) that gives each of them one idle
//! state, C1. QEMU's own tables name none, and a kernel that knows of none lets its tick go on for a while each time
//! it has been woken. It costs a machine that does nothing a third of its wake-ups.
//!
//! Pure. The encoding is that of the ACPI specification 6.5: definition blocks in 5.2.6 and 20, `_CST` in 8.4.1.1.

/// In the table's head: whose it is.
const OEM: &[u8; 6] = b"RDOCKR";
const OEM_TABLE: &[u8; 8] = b"IDLESTAT";
const COMPILER: &[u8; 4] = b"RDKR";

/// Length of the head, and where in it the checksum stands.
const HEAD: usize = 36;
const CHECKSUM: usize = 9;

/// Opcodes.
const ONE: u8 = 0x01;
const NAME: u8 = 0x08;
const BYTE: u8 = 0x0a;
const WORD: u8 = 0x0b;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;

/// A register that is the processor's own affair (space 0x7f, no address), and the end of the list of resources. Of
/// C1 that means the instruction that halts.
const HALT: [u8; 17] = [0x82, 12, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x79, 0];
/// What the state draws, in milliwatts. It is for comparing, and there is no other.
const MILLIWATTS: u16 = 1000;

/// The table for a guest with so many processors.
pub(super) fn table(vcpus: u32) -> Vec<u8> {
    let body: Vec<u8> = (0..vcpus).flat_map(processor).collect();
    let length = u32::try_from(HEAD + body.len()).unwrap_or(u32::MAX);
    let mut table = Vec::with_capacity(HEAD + body.len());
    table.extend(b"SSDT");
    table.extend(length.to_le_bytes());
    // Its revision, and the place of the checksum.
    table.extend([2, 0]);
    table.extend(OEM);
    table.extend(OEM_TABLE);
    table.extend(1u32.to_le_bytes());
    table.extend(COMPILER);
    table.extend(1u32.to_le_bytes());
    table.extend(body);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[CHECKSUM] = sum.wrapping_neg();
    table
}

/// `Scope (\_SB.CPUS.Cxxx) { Name (_CST, Package { 1, Package { register, 1, 1, power } }) }`, by QEMU's name of the
/// processor.
fn processor(number: u32) -> Vec<u8> {
    let register = block(BUFFER, &[&[BYTE, HALT.len() as u8], HALT.as_slice()]);
    let power = MILLIWATTS.to_le_bytes();
    // Its type and its latency are 1.
    let state = block(
        PACKAGE,
        &[&[4], register.as_slice(), &[ONE, ONE, WORD], &power],
    );
    let states = block(PACKAGE, &[&[2, ONE], state.as_slice()]);
    let name = format!("C{number:03X}");
    block(
        SCOPE,
        &[
            b"\\\x2f\x03_SB_CPUS",
            name.as_bytes(),
            &[NAME],
            b"_CST",
            &states,
        ],
    )
}

/// An opcode, the length of what follows, itself included, and what follows: less than 4 KiB.
fn block(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut block = vec![opcode];
    if content.len() + 1 < 1 << 6 {
        block.push(content.len() as u8 + 1);
    } else {
        // Two bytes: the low four bits and that there is one more, then eight bits.
        let length = content.len() + 2;
        block.extend([0x40 | (length & 0xf) as u8, (length >> 4) as u8]);
    }
    block.extend(content);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for vcpus in [1, 2, 64] {
            let table = table(vcpus);
            let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0);
            assert_eq!(
                table[4..8],
                u32::try_from(table.len()).unwrap().to_le_bytes()
            );
            // All processors take the same room.
            assert_eq!((table.len() - HEAD) % usize::try_from(vcpus).unwrap(), 0);
        }
    }

    #[test]
    fn a_block_says_how_long_it_is() {
        assert_eq!(block(PACKAGE, &[&[4]]), [PACKAGE, 2, 4]);
        let long = [7; 100];
        assert_eq!(block(SCOPE, &[&long])[..3], [SCOPE, 0x46, 6]);
        assert_eq!(block(SCOPE, &[&long]).len(), 1 + 102);
    }

    #[test]
    fn each_processor_gets_one_state() {
        let hex: String = table(2).iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex);
    }
}
