//! Machines that run machines of their own.

use e2e::TestServer;

#[test]
fn a_machine_has_kvm_of_its_own_where_the_site_says_so() {
    let server = TestServer::builder().set("hypervisor.nested", true).start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    // By somebody who is not root, which opening it takes nowhere.
    let options = ["--device=/dev/kvm", "--user=1000"];
    let open = ["sh", "-c", "exec 3<>/dev/kvm && echo it opens"];
    assert_eq!(docker.busybox(&options, open), "it opens");
}
