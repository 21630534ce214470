//! What is asked of the kernel's networking (rtnetlink(7)), as many requests in one call as there are. The kernel
//! carries them out before the call returns, so nobody waits and nobody is woken: with a task that owns the socket, each
//! request costs several changes of threads, and under software emulation much code to translate.

use anyhow::{Context, bail};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// A change, and what it is, for people.
pub(crate) struct Change {
    pub(crate) what: String,
    pub(crate) message: RouteNetlinkMessage,
}

/// Makes or replaces all of this, in this order.
///
/// # Errors
/// The first that failed. The kernel goes on with the others all the same.
pub(crate) fn apply(changes: Vec<Change>) -> anyhow::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut names = Vec::new();
    let mut requests = Vec::new();
    for change in changes {
        names.push(change.what);
        requests.push(change.message);
    }
    let kernel = Kernel::ask(requests, flags)?;
    // Numbered from 0 in the order in which they were sent.
    let mut outcomes = vec![None; names.len()];
    while outcomes.iter().any(Option::is_none) {
        for answer in kernel.hear()? {
            let NetlinkPayload::Error(error) = answer.payload else {
                bail!("the kernel answered a change with something else");
            };
            let number = usize::try_from(answer.header.sequence_number)?;
            *outcomes.get_mut(number).context("an answer to nothing")? = Some(error);
        }
    }
    for (error, what) in outcomes.into_iter().flatten().zip(names) {
        if error.code.is_some() {
            return Err(error.to_io()).with_context(|| format!("cannot {what}"));
        }
    }
    Ok(())
}

/// All addresses of all cards.
///
/// # Errors
/// The kernel's.
pub(crate) fn addresses() -> anyhow::Result<Vec<AddressMessage>> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let kernel = Kernel::ask(vec![all], NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut found = Vec::new();
    loop {
        for answer in kernel.hear()? {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                    found.push(address);
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(error.to_io()).context("cannot list addresses");
                }
                _ => {}
            }
        }
    }
}

/// A socket on which something was asked.
struct Kernel(Socket);

impl Kernel {
    fn ask(requests: Vec<RouteNetlinkMessage>, flags: u16) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        for (number, request) in requests.into_iter().enumerate() {
            let mut message = NetlinkMessage::from(request);
            message.header.flags = flags;
            message.header.sequence_number = u32::try_from(number)?;
            message.finalize();
            // A multiple of four as it is, as all parts of a message are padded.
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        let open = || -> std::io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.send(&bytes, 0)?;
            Ok(socket)
        };
        Ok(Self(open().context("cannot ask the kernel")?))
    }

    /// The next answers, of which there is one at least.
    fn hear(&self) -> anyhow::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.0.recv_from_full().context("the kernel is silent")?;
        let mut rest = bytes.as_slice();
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let answer = NetlinkMessage::deserialize(rest).context("the kernel's answer")?;
            let length = usize::try_from(answer.header.length)?.next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            answers.push(answer);
        }
        Ok(answers)
    }
}
