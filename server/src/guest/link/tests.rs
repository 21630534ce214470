use guest_protocol::{Fault, FaultCode, Hello, MAX_FRAME_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn pair() -> (Link, DuplexStream) {
    let (server, guest) = tokio::io::duplex(MAX_FRAME_BYTES * 2);
    (Link::new(Box::new(server), 7), guest)
}

/// Reads one request and answers it with what `answer` makes of its id.
async fn answer(guest: &mut DuplexStream, answer: impl FnOnce(u64) -> Vec<u8>) {
    let mut decoder = LineDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        if let Some(request) = decoder.next_frame::<Request>().unwrap() {
            guest.write_all(&answer(request.id)).await.unwrap();
            return;
        }
        let count = guest.read(&mut buffer).await.unwrap();
        decoder.feed(&buffer[..count]).unwrap();
    }
}

fn reply(id: u64, reply: Reply) -> Vec<u8> {
    encode(&FromGuest::Reply {
        id,
        result: Ok(reply),
    })
    .unwrap()
}

fn hello(id: u64, version: u32, phase: Phase) -> Vec<u8> {
    reply(
        id,
        Reply::Hello(Hello {
            version,
            phase,
            boot_id: "b".into(),
        }),
    )
}

#[tokio::test]
async fn a_booting_guest_is_waited_for() {
    let (mut link, mut guest) = pair();
    let ready = encode(&FromGuest::Event(Event::Phase(Phase::Ready))).unwrap();
    let nothing = Site::default();
    let (waited, ()) = tokio::join!(link.wait_ready(LIMIT, &nothing), async {
        answer(&mut guest, |id| hello(id, VERSION, Phase::Booting)).await;
        answer(&mut guest, |id| {
            [reply(id, Reply::Prepared), ready].concat()
        })
        .await;
    });
    waited.unwrap();
}

#[tokio::test]
async fn an_agent_that_knows_no_site_does_as_long_as_there_is_none() {
    let (mut link, mut guest) = pair();
    let ready = encode(&FromGuest::Event(Event::Phase(Phase::Ready))).unwrap();
    let nothing = Site::default();
    let (waited, ()) = tokio::join!(link.wait_ready(LIMIT, &nothing), async {
        answer(&mut guest, |id| {
            [hello(id, OLDEST_VERSION, Phase::Booting), ready].concat()
        })
        .await;
    });
    waited.unwrap();

    let mut site = Site::default();
    site.live.registry_mirrors = vec!["https://mirror.example.org".into()];
    let (mut link, mut guest) = pair();
    let (waited, ()) = tokio::join!(
        link.wait_ready(LIMIT, &site),
        answer(&mut guest, |id| hello(id, OLDEST_VERSION, Phase::Booting))
    );
    assert!(matches!(waited, Err(GuestError::NoSite)), "{waited:?}");
}

#[tokio::test]
async fn an_agent_of_another_version_is_refused() {
    let (mut link, mut guest) = pair();
    let nothing = Site::default();
    for other in [OLDEST_VERSION - 1, VERSION + 1] {
        let (waited, ()) = tokio::join!(
            link.wait_ready(LIMIT, &nothing),
            answer(&mut guest, |id| hello(id, other, Phase::Ready))
        );
        assert!(
            matches!(waited, Err(GuestError::Version { .. })),
            "{waited:?}"
        );
    }
}

#[tokio::test]
async fn answers_to_a_predecessor_and_its_half_frame_are_passed_over() {
    let (mut link, mut guest) = pair();
    guest.write_all(b"ply\":{\"id\":1}}\n").await.unwrap();
    guest.write_all(&reply(1, Reply::Quiesced)).await.unwrap();
    let status = Status {
        phase: Phase::Serving,
        docker_answers: true,
        docker_restarts: 2,
        activity: guest_protocol::Activity {
            connections: 3,
            ..Default::default()
        },
        unix_time_ns: None,
    };
    // The stale lines arrive in the same read as nothing of ours, so they are met first.
    let expected = status.clone();
    let (got, ()) = tokio::join!(
        link.status(LIMIT),
        answer(&mut guest, |id| reply(id, Reply::Status(status)))
    );
    assert_eq!(got.unwrap(), expected);
}

#[tokio::test]
async fn events_are_kept_for_later_and_their_number_is_bounded() {
    let (mut link, mut guest) = pair();
    let event = |n: usize| Event::DaemonExited {
        daemon: "dockerd".into(),
        status: n.to_string(),
    };
    let (done, ()) = tokio::join!(link.quiesce(LIMIT), async {
        answer(&mut guest, |id| {
            let mut bytes: Vec<u8> = (0..KEPT_EVENTS + 5)
                .flat_map(|n| encode(&FromGuest::Event(event(n))).unwrap())
                .collect();
            bytes.extend(reply(id, Reply::Quiesced));
            bytes
        })
        .await;
    });
    done.unwrap();
    assert_eq!(link.next().await.unwrap(), Occurrence::Event(event(5)));
    assert_eq!(link.events.len(), KEPT_EVENTS - 1);
}

#[tokio::test]
async fn a_fault_is_told_in_the_agents_words() {
    let (mut link, mut guest) = pair();
    let fault = Fault {
        code: FaultCode::WrongPhase,
        message: "still booting".into(),
    };
    let (done, ()) = tokio::join!(
        link.quiesce(LIMIT),
        answer(&mut guest, |id| encode(&FromGuest::Reply {
            id,
            result: Err(fault)
        })
        .unwrap())
    );
    let error = done.unwrap_err();
    assert!(matches!(&error, GuestError::Refused { .. }), "{error:?}");
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "still booting"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_given_up() {
    let (mut link, _guest) = pair();
    let done = link.quiesce(Duration::from_secs(3)).await;
    assert!(
        matches!(done, Err(GuestError::Timeout { limit_s: 3, .. })),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_flood_is_given_up() {
    let (mut link, mut guest) = pair();
    let noise = encode(&FromGuest::Event(Event::Phase(Phase::Ready))).unwrap();
    let flood = async {
        // Ends with an error when the link is dropped.
        while guest.write_all(&noise).await.is_ok() {}
    };
    let asked = async {
        let done = link.quiesce(LIMIT).await;
        drop(link);
        done
    };
    let (done, ()) = tokio::join!(asked, flood);
    assert!(matches!(done, Err(GuestError::Flood { .. })), "{done:?}");
}

#[tokio::test]
async fn a_frame_without_an_end_is_given_up() {
    let (mut link, mut guest) = pair();
    guest
        .write_all(&vec![b'x'; MAX_FRAME_BYTES + 1])
        .await
        .unwrap();
    let done = link.quiesce(LIMIT).await;
    assert!(matches!(done, Err(GuestError::Frame(_))), "{done:?}");
}

#[tokio::test]
async fn a_guest_that_goes_away_is_noticed() {
    let (mut link, guest) = pair();
    drop(guest);
    assert_eq!(link.next().await.unwrap(), Occurrence::Closed);
}

#[tokio::test]
async fn a_line_that_is_no_frame_is_forgiven_only_before_the_first_answer() {
    let (mut link, mut guest) = pair();
    let rubbish = format!("{{\"event\":\"{}\"}}\n", "\u{202e}evil".repeat(100));
    let (asked, ()) = tokio::join!(
        link.quiesce(LIMIT),
        answer(&mut guest, |id| [
            rubbish.clone().into_bytes(),
            reply(id, Reply::Quiesced)
        ]
        .concat())
    );
    asked.unwrap();
    guest.write_all(rubbish.as_bytes()).await.unwrap();
    let error = link.next().await.unwrap_err();
    assert!(error.is_foul(), "{error:?}");
    // What is logged is ours, not the guest's.
    assert!(!format!("{error} {error:?}").contains("evil"), "{error:?}");
}

#[tokio::test]
async fn a_flood_while_nothing_is_asked_is_given_up_too() {
    let (mut link, mut guest) = pair();
    let noise = reply(1, Reply::Quiesced);
    let flood = async { while guest.write_all(&noise).await.is_ok() {} };
    let heard = async {
        let heard = tokio::time::timeout(LIMIT, link.next()).await;
        drop(link);
        heard
    };
    let (heard, ()) = tokio::join!(heard, flood);
    assert!(
        matches!(heard, Ok(Err(GuestError::Flood { .. }))),
        "{heard:?}"
    );
}

#[tokio::test]
async fn what_a_guest_writes_is_made_printable_and_cut() {
    let (mut link, mut guest) = pair();
    let logs = Logs {
        dockerd: "one\n\u{1b}[2Jtwo\u{202e}\n".into(),
        containerd: "x".repeat(5000),
        kernel: String::new(),
    };
    let (got, ()) = tokio::join!(
        link.logs(1000, LIMIT),
        answer(&mut guest, |id| reply(id, Reply::Logs(logs)))
    );
    let got = got.unwrap();
    assert_eq!(got.dockerd, "one\n?[2Jtwo?\n");
    assert_eq!(got.containerd.len(), 1000);

    let fault = Fault {
        code: FaultCode::Failed,
        message: "\u{1b}[2J".repeat(1000),
    };
    let (refused, ()) = tokio::join!(
        link.notice("ä".repeat(1000), LIMIT),
        answer(&mut guest, |id| encode(&FromGuest::Reply {
            id,
            result: Err(fault)
        })
        .unwrap())
    );
    match refused {
        Err(GuestError::Refused { fault, .. }) => {
            assert!(fault.message.len() < 200 && !fault.message.contains('\u{1b}'));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_listened_to_is_still_seen_to_go() {
    let (mut link, mut guest) = pair();
    let talk = async {
        for _ in 0..50 {
            guest.write_all(&[b'x'; 4096]).await.unwrap();
        }
        drop(guest);
    };
    let (gone, ()) = tokio::join!(tokio::time::timeout(LIMIT, link.gone()), talk);
    gone.unwrap();
}
