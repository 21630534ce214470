//! Whether a guest has become a machine of its own. Pure: what was asked for and what was found go
//! in, the first miss comes out. Any miss means that the VM is destroyed (fail closed).

use std::net::Ipv4Addr;
use std::time::Duration;

use guest_protocol::Activated;

use super::{GuestError, printable};

/// How far a guest's clock may be from the host's when it is handed out.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);

/// What a guest must have become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its host name.
    pub hostname: String,
    /// Its machine id.
    pub machine_id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether the kernel must have reseeded its random numbers, because it is a clone.
    pub must_reseed: bool,
    /// Whether the site wants something of it.
    pub has_site: bool,
}

/// Checks what the guest found against what it must be. `asked_ns` and `answered_ns` are the host's
/// clock before the request and after the answer, in nanoseconds since 1970: the guest's clock was
/// read between the two.
///
/// # Errors
/// [`GuestError::Identity`] with the first miss.
pub fn check(
    wanted: &Identity,
    found: &Activated,
    asked_ns: u64,
    answered_ns: u64,
) -> Result<(), GuestError> {
    let skew = u64::try_from(MAX_CLOCK_SKEW.as_nanos()).unwrap_or(u64::MAX);
    let clock = asked_ns.saturating_sub(skew)..=answered_ns.saturating_add(skew);
    let miss = if found.hostname != wanted.hostname {
        format!("its host name is `{}`", printable(&found.hostname))
    } else if found.machine_id != wanted.machine_id {
        format!("its machine id is `{}`", printable(&found.machine_id))
    } else if found.address != wanted.address {
        format!("its address is {}", found.address)
    } else if wanted.must_reseed && !found.rng_reseeded {
        "its kernel did not reseed its random numbers".to_owned()
    } else if !clock.contains(&found.unix_time_ns) {
        format!("its clock is more than {} s off", MAX_CLOCK_SKEW.as_secs())
    } else if found.open_connections != 0 {
        format!(
            "it holds {} connections it did not open",
            found.open_connections
        )
    } else if wanted.has_site && !found.has_site {
        "its agent knows nothing of the settings in `site`: build the image again with this server's sources"
            .to_owned()
    } else if ssh_host_key(found).is_none() {
        "it has no SSH host key of its own".to_owned()
    } else {
        return Ok(());
    };
    Err(GuestError::Identity(miss))
}

/// The guest's SSH host key as it is told to others: type and key, without the comment that the guest
/// may have put behind them.
#[must_use]
pub fn ssh_host_key(found: &Activated) -> Option<String> {
    /// In Base64: the length of the type's name, the name, and the length of the key, 32 bytes, which
    /// come next (RFC 8709, section 4).
    const BEGINNING: &str = "AAAAC3NzaC1lZDI1NTE5AAAAI";
    const LENGTH: usize = 68;
    let mut words = found.ssh_host_key.split(' ');
    let (kind, key) = (words.next()?, words.next()?);
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let good = kind == "ssh-ed25519"
        && key.starts_with(BEGINNING)
        && key.len() == LENGTH
        && key.bytes().all(is_base64);
    good.then(|| format!("{kind} {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;
    const HOST_KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPbHk4Zb+qNHT5XQ3cUXE4J/eTMBEz5Sg6Gwdl9h1Ld";

    fn wanted() -> Identity {
        Identity {
            hostname: "vm-0000000000001".into(),
            machine_id: "72656d6f746564000000000000000001".into(),
            address: Ipv4Addr::new(10, 213, 0, 1),
            must_reseed: true,
            has_site: true,
        }
    }

    fn found() -> Activated {
        Activated {
            csr_pem: String::new(),
            ssh_host_key: format!("{HOST_KEY} root@vm"),
            hostname: "vm-0000000000001".into(),
            machine_id: "72656d6f746564000000000000000001".into(),
            address: Ipv4Addr::new(10, 213, 0, 1),
            unix_time_ns: NOW,
            rng_reseeded: true,
            open_connections: 0,
            has_site: true,
        }
    }

    #[test]
    fn a_machine_of_its_own_passes() {
        check(&wanted(), &found(), NOW, NOW).unwrap();
        // The clock may be read at any time between the request and the answer.
        check(
            &wanted(),
            &Activated {
                unix_time_ns: NOW + 5 * SECOND,
                ..found()
            },
            NOW,
            NOW + 6 * SECOND,
        )
        .unwrap();
    }

    #[test]
    fn a_host_key_is_told_without_what_stands_behind_it_and_nothing_else_passes_for_one() {
        let told = |key: &str| {
            ssh_host_key(&Activated {
                ssh_host_key: key.to_owned(),
                ..found()
            })
        };
        assert_eq!(told(HOST_KEY).as_deref(), Some(HOST_KEY));
        assert_eq!(told(&format!("{HOST_KEY} a b")).as_deref(), Some(HOST_KEY));
        let line = HOST_KEY.replace('/', "\n");
        for bad in [
            "",
            "ssh-ed25519 AAAA",
            &HOST_KEY[..HOST_KEY.len() - 1],
            &line,
            &HOST_KEY.replace("ssh-ed25519", "ssh-rsa"),
            &HOST_KEY.replace(' ', "\t"),
        ] {
            assert_eq!(told(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_miss_is_fatal() {
        let misses = [
            Activated {
                hostname: "template".into(),
                ..found()
            },
            Activated {
                machine_id: String::new(),
                ..found()
            },
            Activated {
                address: Ipv4Addr::LOCALHOST,
                ..found()
            },
            Activated {
                unix_time_ns: NOW - 3 * SECOND,
                ..found()
            },
            Activated {
                unix_time_ns: NOW + 3 * SECOND,
                ..found()
            },
            Activated {
                rng_reseeded: false,
                ..found()
            },
            Activated {
                open_connections: 1,
                ..found()
            },
            Activated {
                has_site: false,
                ..found()
            },
            Activated {
                ssh_host_key: String::new(),
                ..found()
            },
        ];
        for miss in misses {
            assert!(check(&wanted(), &miss, NOW, NOW).is_err(), "{miss:?}");
        }
    }

    #[test]
    fn a_cold_boot_has_nothing_to_reseed() {
        let wanted = Identity {
            must_reseed: false,
            ..wanted()
        };
        check(
            &wanted,
            &Activated {
                rng_reseeded: false,
                ..found()
            },
            NOW,
            NOW,
        )
        .unwrap();
    }

    #[test]
    fn a_hostile_name_does_not_reach_the_log_as_it_is() {
        let hostile = Activated {
            hostname: format!("\x1b[2J\n{}", "x".repeat(9999)),
            ..found()
        };
        let text = check(&wanted(), &hostile, NOW, NOW)
            .unwrap_err()
            .to_string();
        assert!(
            text.len() < 200 && !text.contains(['\x1b', '\n']),
            "{text:?}"
        );
    }
}
