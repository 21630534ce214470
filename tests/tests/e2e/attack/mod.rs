//! Attacks from root in a leased machine, with another lease beside it.
//!
//! What is tried is tried by a program that the attacker runs as root in their machine's own network
//! (`attack-probe`). What came of it is not taken from that program: frames are recorded where they come out of the
//! attacker's machine, where they would go into the other one, on the host and behind it, and so is what those who
//! listen hear. An attack that is said to fail was seen to leave the machine, and succeeds in the same test once its
//! guards are taken away.

mod claims;
mod exhaustion;
mod flood;
mod forge;
mod handshake;
mod place;
mod reach;
mod stage;
mod target;
mod witness;
