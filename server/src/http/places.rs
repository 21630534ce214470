//! Who may hold a connection. Holding one costs nothing, and whoever holds all of them keeps the
//! others out: so a place is safe only for those who have shown the token. When places run out, the
//! oldest of the others goes; it has had the most time to ask what it wanted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many connections there may be at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of all peers.
    pub all: usize,
    /// Of one peer: an IPv4 address, or an IPv6 network of 64 bits, which is what one machine is given.
    pub per_peer: usize,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// By age, the oldest first.
    seats: BTreeMap<u64, Seat>,
}

#[derive(Debug)]
struct Seat {
    peer: IpAddr,
    trusted: bool,
    cut: CancellationToken,
}

/// A place that is held while this lives.
#[derive(Debug)]
pub(super) struct Place {
    /// Cancelled when somebody else got the place.
    pub cut: CancellationToken,
    seat: Arc<SeatNumber>,
}

#[derive(Debug)]
struct SeatNumber {
    places: Arc<Places>,
    number: u64,
    /// Whoever sits there.
    peer: IpAddr,
}

/// With this a connection's place can be made safe.
#[derive(Debug, Clone)]
pub(super) struct Trust(Arc<SeatNumber>);

impl Trust {
    /// Who is at the other end.
    pub(super) fn peer(&self) -> IpAddr {
        self.0.peer
    }

    /// The peer has shown the token.
    pub(super) fn earn(&self) {
        let mut taken = self.0.places.taken();
        if let Some(seat) = taken.seats.get_mut(&self.0.number) {
            seat.trusted = true;
        }
    }
}

impl Place {
    pub(super) fn trust(&self) -> Trust {
        Trust(Arc::clone(&self.seat))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.seat.places;
        places.taken().seats.remove(&self.seat.number);
        places.freed.notify_one();
    }
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Waits until somebody can come in, for one caller at a time.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.freed.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        let taken = self.taken();
        taken.seats.len() < self.limits.all || taken.oldest(|_| true).is_some()
    }

    /// Gives the peer a place, if need be that of another who has not shown the token.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let sits = peer.to_canonical();
        let peer = network_of(peer);
        let mut taken = self.taken();
        let of_peer = taken.seats.values().filter(|seat| seat.peer == peer);
        let leaves = if of_peer.count() >= self.limits.per_peer {
            Some(taken.oldest(|seat| seat.peer == peer)?)
        } else if taken.seats.len() >= self.limits.all {
            Some(taken.oldest(|_| true)?)
        } else {
            None
        };
        if let Some(seat) = leaves.and_then(|number| taken.seats.remove(&number)) {
            seat.cut.cancel();
        }
        let number = taken.next;
        taken.next += 1;
        let cut = CancellationToken::new();
        let seat = Seat {
            peer,
            trusted: false,
            cut: cut.clone(),
        };
        taken.seats.insert(number, seat);
        let places = Arc::clone(self);
        let seat = Arc::new(SeatNumber {
            places,
            number,
            peer: sits,
        });
        Some(Place { cut, seat })
    }

    /// No code panics while it holds the lock.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The oldest of those that may be sent away.
    fn oldest(&self, which: impl Fn(&Seat) -> bool) -> Option<u64> {
        self.seats
            .iter()
            .find(|(_, seat)| !seat.trusted && which(seat))
            .map(|(number, _)| *number)
    }
}

fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let first_half = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(first_half).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_oldest_without_a_token_goes() {
        let places = Places::new(Limits {
            all: 3,
            per_peer: 3,
        });
        let [one, two, three] = [A, B, A].map(|peer| places.enter(peer).unwrap());
        one.trust().earn();
        let four = places.enter(A).unwrap();
        let gone = |place: &Place| place.cut.is_cancelled();
        assert_eq!([&one, &two, &three].map(gone), [false, true, false]);
        // Its place is another's now: that it goes frees none.
        drop(two);
        three.trust().earn();
        four.trust().earn();
        assert!(!places.has_room());
        assert!(places.enter(B).is_none());
        drop(one);
        assert!(places.enter(B).is_some());
    }

    #[test]
    fn a_peer_with_its_share_gets_a_place_only_for_its_own() {
        let places = Places::new(Limits {
            all: 9,
            per_peer: 2,
        });
        let other = places.enter(B).unwrap();
        let [one, two] = [A, A].map(|peer| places.enter(peer).unwrap());
        let _three = places.enter(A).unwrap();
        assert!(one.cut.is_cancelled() && !two.cut.is_cancelled() && !other.cut.is_cancelled());
        for place in [&two, &_three] {
            place.trust().earn();
        }
        assert!(places.enter(A).is_none());
        assert!(places.enter(B).is_some());
    }

    #[test]
    fn a_peer_is_an_address_or_a_small_network() {
        let of = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
