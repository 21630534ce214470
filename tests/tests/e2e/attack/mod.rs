//! Attacks from root in a leased machine, with another lease beside it.

mod exhaustion;
