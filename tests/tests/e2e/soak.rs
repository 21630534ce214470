//! What many leases leave behind. `make soak` does the same two hundred times.

use e2e::TestServer;
use e2e::footprint::further_heaps;
use e2e::soak::{Plan, run};

#[test]
fn leases_made_and_given_back_leave_nothing_and_the_server_does_not_grow() {
    let server = TestServer::start();
    let plan = Plan {
        warm_up: 16,
        cycles: 24,
        memory_percent: 15,
    };
    let outcome = run(&server, plan, |_| ());
    assert_eq!(outcome.faults(), Vec::<String>::new(), "{outcome:?}");
    // Each would keep what one thread took and another gave back.
    let heaps = further_heaps(server.pid());
    assert!(heaps <= 1, "{heaps} heaps besides the first");
    // Each of libvirt's threads would keep a tenth of a megabyte. What the C library was told shows no other way.
    let given = std::fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
    let setting = b"GLIBC_TUNABLES=glibc.malloc.tcache_max=128";
    assert!(given.split(|&byte| byte == 0).any(|it| it == setting));
}
