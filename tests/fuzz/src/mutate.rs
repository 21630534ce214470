//! Makes new inputs of old ones.

use crate::Random;

/// A change or a few of `input`, which has at most `most` bytes afterwards. `other` is another input and
/// `words` are what the language of the inputs is made of.
pub(crate) fn mutate(
    random: &mut Random,
    input: &[u8],
    other: &[u8],
    words: &[&[u8]],
    most: usize,
) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(5) {
        change(random, &mut bytes, other, words);
        bytes.truncate(most);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let at = random.below(bytes.len() + 1);
    let inside = random.below(bytes.len());
    match random.below(11) {
        0 => {
            if let Some(byte) = bytes.get_mut(inside) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(inside) {
                *byte = random.byte();
            }
        }
        2 => {
            let new: Vec<u8> = (0..=random.below(8)).map(|_| random.byte()).collect();
            bytes.splice(at..at, new);
        }
        3 => {
            let (from, to) = range(random, bytes.len());
            bytes.drain(from..to);
        }
        4 => {
            let (from, to) = range(random, bytes.len());
            let copy = bytes[from..to].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => {
            let (from, to) = range(random, bytes.len());
            let times = 1 << random.below(8);
            let copy = bytes[from..to].repeat(times);
            bytes.splice(at..at, copy);
        }
        6 | 7 => {
            if let Some(word) = words.get(random.below(words.len())) {
                let end = match random.below(2) {
                    0 => at,
                    _ => (at + word.len()).min(bytes.len()),
                };
                bytes.splice(at..end, word.iter().copied());
            }
        }
        8 => {
            let (from, to) = range(random, other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        9 => {
            bytes.truncate(at);
            let (from, _) = range(random, other.len());
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            // Lengths and numbers are where readers go wrong.
            const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-'];
            if let Some(byte) = bytes.get_mut(inside) {
                *byte = EDGES[random.below(EDGES.len())];
            }
        }
    }
}

/// A range of at most a few dozen places, mostly short.
fn range(random: &mut Random, length: usize) -> (usize, usize) {
    let from = random.below(length + 1);
    let most = 1 << random.below(7);
    let to = (from + random.below(most) + 1).min(length);
    (from, to.max(from))
}
