//! What machines said last.

use remote_docker_api::{EndReason, LeaseLogs};

use super::*;
use crate::ids::VmId;

/// Machines that say what the test wants.
#[derive(Default)]
pub(super) struct FakeLogs(pub(super) Mutex<BTreeMap<VmId, LeaseLogs>>);

#[async_trait::async_trait]
impl GuestLogs for FakeLogs {
    async fn logs(&self, vm: VmId) -> Option<LeaseLogs> {
        self.0.lock().unwrap().get(&vm).cloned()
    }
}

#[tokio::test]
async fn the_machine_of_the_lease_is_asked_while_it_has_one() {
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let path = format!("/v1/leases/{}/logs", lease.id);
    let answer = fixture.get(&path).await;
    answer.problem(409, ErrorCode::LeaseNotActive);

    fixture.grant(lease.id).await;
    let answer = fixture.get(&path).await;
    answer.problem(503, ErrorCode::GuestSilent);
    let said = LeaseLogs {
        console: "\u{1b}[31mLinux\n".to_owned(),
        docker: "level=info\n".to_owned(),
    };
    // The fixture's machines have the number of their lease.
    let vm = VmId::from_bits(lease.id.bits());
    fixture.logs.0.lock().unwrap().insert(vm, said.clone());
    let answer = fixture.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json::<LeaseLogs>(), said);

    let store = &fixture.api.store;
    store.wish_end(lease.id, EndReason::Released).await.unwrap();
    let answer = fixture.get(&path).await;
    answer.problem(409, ErrorCode::LeaseEnded);
    let answer = fixture.get("/v1/leases/l-0000000000007/logs").await;
    answer.problem(404, ErrorCode::LeaseNotFound);
}
