//! What a site has around its server: an authority of its own, registries, a resolver, a proxy. All of it
//! runs beside the server of one test, in network namespaces that go with the test.

mod authority;
mod proxy;
mod registry;
mod resolver;
mod world;

pub use authority::Authority;
pub use proxy::Proxy;
pub use registry::{Registry, RegistryPlan};
pub use resolver::Resolver;
pub use world::{HOST, LAN, PUBLIC, World};
