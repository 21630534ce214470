//! Docker's client library for Rust, with the files of a lease.

use bollard::config::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::LogsOptions;
use bollard::{API_DEFAULT_VERSION, Docker};
use e2e::docker::BUSYBOX;
use e2e::{Machine, TestServer};
use futures_util::{StreamExt, TryStreamExt};

/// Seconds; as long as a call may take on an emulated machine.
const LIMIT: u64 = 60;

#[test]
fn bollard_runs_a_container() {
    let server = TestServer::start();
    let machine = server.lease();
    machine.docker().import_busybox();
    // On this thread alone, which is in the network namespace of the test.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(use_it(&machine)).unwrap();
}

async fn use_it(machine: &Machine) -> Result<(), bollard::errors::Error> {
    let file = |name: &str| machine.certificates().join(name);
    let (key, cert, ca) = (file("key.pem"), file("cert.pem"), file("ca.pem"));
    let address = format!("tcp://{}", machine.endpoint());
    let docker = Docker::connect_with_ssl(&address, &key, &cert, &ca, LIMIT, API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    assert_eq!(docker.ping().await?, "OK");

    let script = "echo out; echo err >&2; exit 3";
    let body = ContainerCreateBody {
        image: Some(BUSYBOX.to_owned()),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None, body).await?.id;
    docker.start_container(&id, None).await?;
    // An exit code other than 0 is an error to this library.
    let waited = docker.wait_container(&id, None).next().await;
    assert!(
        matches!(
            waited,
            Some(Err(bollard::errors::Error::DockerContainerWaitError {
                code: 3,
                ..
            }))
        ),
        "{waited:?}"
    );
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let logs: Vec<_> = docker.logs(&id, Some(options)).try_collect().await?;
    let mut lines: Vec<String> = logs.iter().map(ToString::to_string).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err\n", "out\n"]);

    docker.remove_container(&id, None).await?;
    let gone = docker.inspect_container(&id, None).await;
    assert!(
        matches!(
            gone,
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404,
                ..
            })
        ),
        "{gone:?}"
    );
    Ok(())
}
