//! The configuration file.

use std::path::Path;

use remote_dockerd::config::{Config, ConfigError};

use super::{Target, outcome};

const WORDS: &[&[u8]] = &[
    b"[http]\n",
    b"[relay]\n",
    b"[lease]\n",
    b"[limits]\n",
    b"[network]\n",
    b"[hypervisor]\n",
    b"[sizes.small]\n",
    b"[projects.a]\n",
    b"[[pool]]\n",
    b"[[pool.schedule]]\n",
    b"listen = \"127.0.0.1:1\"\n",
    b"ports = \"1024-65535\"\n",
    b"at = \"0 7 * * mon-fri\"\n",
    b"time_zone = \"Europe/Berlin\"\n",
    b"ready = 2\n",
    b"qemu_uids = \"1000-4294967294\"\n",
    b"max_vms = 65535\n",
    b"memory_mib = 4294967295\n",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"0x7fffffffffffffff",
    b"1979-05-27T07:32:00Z",
    b"'''",
    b"\"\"\"",
    b"[[[[[[[[",
    b"{a={a={a=",
    b"\\U0010ffff",
    b"inf",
    b" = ",
    b"#",
];

pub(super) fn target() -> Target {
    Target {
        name: "config",
        what: "the configuration file",
        words: WORDS,
        most_bytes: 8192,
        most_memory: 64 << 20,
        seeds,
        run,
    }
}

/// Every key, with good values and with bad ones.
fn seeds() -> Vec<Vec<u8>> {
    let good = include_bytes!("../../../../server/src/config/tests/full.toml");
    let bad = include_bytes!("../../../../server/src/config/tests/faulty.toml");
    vec![good.to_vec(), bad.to_vec()]
}

/// A file is refused in words, or can be used. The same text always comes to the same.
fn run(input: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    let path = Path::new("fuzz.toml");
    let config = match Config::from_toml(text, path) {
        Ok(config) => config,
        Err(error) => return syntax(&error),
    };
    let again = Config::from_toml(text, path).expect("what was read can be read again");
    assert_eq!(config, again, "it reads differently the second time");
    match config.validate() {
        Ok(()) => {
            assert!(config.state_dir.is_absolute() && config.images_dir().is_absolute());
            assert!(config.sizes.contains_key(&config.default_size));
            assert!(!config.relay.ports.as_range().is_empty());
            outcome("good")
        }
        Err(ConfigError::Faults(faults)) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let mut keys = String::new();
            for fault in &faults {
                assert!(!fault.key.is_empty());
                // Names that the file gives, and numbers of places, tell nothing new.
                keys.extend(fault.key.split(['.', '[']).take(1));
            }
            keys.truncate(200);
            outcome(&keys)
        }
        Err(other) => panic!("{other}"),
    }
}

fn syntax(error: &ConfigError) -> u64 {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.expect("what is wrong is told");
    // The last line says it; those before show the place.
    let last = cause.lines().last().unwrap_or_default();
    let words: String = last.chars().take_while(|c| *c != '`').take(60).collect();
    outcome(&words)
}
