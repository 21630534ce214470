//! Each project sees its own leases and no other.

use remote_docker_api::LeaseList;

use super::*;
use crate::config::ProjectConfig;

const OTHER: &str = "rdt_other_0123456789abcdef0123456789abcdef";

/// An API for the default project and two others; the token of the first of those is [`OTHER`].
async fn shared() -> Fixture {
    let fixture = Fixture::new().await;
    let file = |name: &str| ProjectConfig {
        token_file: fixture.folder.path().join(name),
    };
    let path = fixture.folder.path().join("a");
    std::fs::write(&path, OTHER).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = BTreeMap::from([("a".to_owned(), file("a")), ("b".to_owned(), file("b"))]);
    let main = TokenHash::of(TOKEN.as_bytes());
    let projects = Projects::load(main, &config).unwrap();
    fixture.with(|api| api.projects = projects)
}

fn by(token: &str, method: Method, path: &str, body: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header("Idempotency-Key", "the-same")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

#[tokio::test]
async fn a_lease_of_another_project_is_not_there() {
    let fixture = shared().await;
    let body = order(json!({ "wait_s": 0, "keepalive_s": 60 }));
    let ask = async |token: &str| {
        let request = by(token, Method::POST, "/v1/leases", &body);
        fixture.send(request).await.json::<Lease>()
    };
    // A key belongs to its project, too.
    let (ours, theirs) = (ask(TOKEN).await, ask(OTHER).await);
    assert_ne!(ours.id, theirs.id);
    let row = fixture.api.store.lease(theirs.id).await.unwrap().unwrap();
    assert_eq!(row.project, "a");
    fixture.grant(ours.id).await;
    fixture.grant(theirs.id).await;

    let path = format!("/v1/leases/{}", theirs.id);
    for (method, verb) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/heartbeat"),
        (Method::POST, "/extend"),
        (Method::GET, "/events"),
        (Method::GET, "/logs"),
    ] {
        let path = format!("{path}{verb}");
        let body = r#"{"remaining_s": 10}"#;
        let foreign = fixture.send(by(TOKEN, method.clone(), &path, body)).await;
        let foreign = foreign.problem(404, ErrorCode::LeaseNotFound);
        // Nothing tells it from one that never was.
        let none = "/v1/leases/l-0000000000007";
        let path = format!("{none}{verb}");
        let missing = fixture.send(by(TOKEN, method, &path, body)).await;
        let missing = missing.problem(404, ErrorCode::LeaseNotFound);
        assert_eq!(missing.hint, foreign.hint);
        let (ours, theirs) = ("l-0000000000007", theirs.id.to_string());
        assert_eq!(missing.detail.replace(ours, &theirs), foreign.detail);
    }
    assert_eq!(
        fixture
            .api
            .store
            .lease(theirs.id)
            .await
            .unwrap()
            .unwrap()
            .end_wish,
        None
    );
    for (token, id) in [(TOKEN, ours.id), (OTHER, theirs.id)] {
        let request = by(token, Method::GET, "/v1/leases", "");
        let list: LeaseList = fixture.send(request).await.json();
        let ids: Vec<_> = list.leases.iter().map(|lease| lease.id).collect();
        assert_eq!(ids, [id]);
    }
    let own = fixture.send(by(OTHER, Method::DELETE, &path, "")).await;
    assert_eq!(own.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn each_token_is_of_one_project_and_no_other_is_good() {
    let fixture = shared().await;
    let drawn = std::fs::read_to_string(fixture.folder.path().join("b")).unwrap();
    let projects = &fixture.api.projects;
    let of = |token: &str| projects.of(token.as_bytes()).map(|one| one.0.to_string());
    assert_eq!(of(TOKEN).as_deref(), Some("default"));
    assert_eq!(of(OTHER).as_deref(), Some("a"));
    assert_eq!(of(drawn.trim()).as_deref(), Some("b"));
    assert_eq!(of("rdt_"), None);
    let wrong = by("rdt_wrong", Method::GET, "/v1/leases", "");
    fixture
        .send(wrong)
        .await
        .problem(401, ErrorCode::Unauthorized);
}

#[test]
fn all_token_files_that_cannot_be_used_are_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("open"), OTHER).unwrap();
    std::fs::set_permissions(
        path("open"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let project = |name: &str| {
        let token_file = path(name);
        (name.to_owned(), ProjectConfig { token_file })
    };
    let main = TokenHash::of(TOKEN.as_bytes());
    let config = BTreeMap::from(["open", "folder", "none/token", "good"].map(project));
    let error = Projects::load(main.clone(), &config).unwrap_err();
    let text = error.to_string();
    for words in [
        "`projects.open`",
        "`projects.folder`",
        "`projects.none/token`",
        "No such file",
    ] {
        assert!(text.contains(words), "{words} not in {text}");
    }
    assert!(
        !text.contains("projects.good") && !text.contains(OTHER),
        "{text}"
    );

    std::fs::write(path("good"), TOKEN).unwrap();
    let config = BTreeMap::from([project("good")]);
    let error = Projects::load(main, &config).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`default` and `good`"), "{text}");
}
