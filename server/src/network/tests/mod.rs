//! The network with real packets. They need root, and nothing else: each test has a host of its own
//! (see [`lab`]), so nothing of them is ever in the machine's own network.

mod egress;
mod forging;
mod frames;
mod lab;
mod lifecycle;
mod limits;
mod policy;
mod related;
mod spoofing;
