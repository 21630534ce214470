//! The daemon's configuration. Pure.
//!
//! The names are those of `daemon.json(5)`, the same in Docker 26 and 28.

use guest_protocol::{Site, Ulimit};
use serde_json::{Map, Value, json};

/// The image's own configuration with what the site says over it.
pub(super) fn over(ground: &Value, site: &Site) -> Value {
    let mut config = ground.as_object().cloned().unwrap_or_default();
    // Always, and empty rather than left out: a daemon that reads its configuration again keeps what a
    // key that is not there said before.
    config.insert("registry-mirrors".into(), json!(site.live.registry_mirrors));
    config.insert(
        "insecure-registries".into(),
        json!(site.live.insecure_registries),
    );
    let fixed = &site.fixed;
    if let Some(proxy) = &fixed.proxy {
        let mut proxies = Map::new();
        for (name, url) in [("http-proxy", &proxy.http), ("https-proxy", &proxy.https)] {
            if let Some(url) = url {
                proxies.insert(name.into(), json!(url));
            }
        }
        proxies.insert("no-proxy".into(), json!(proxy.except.join(",")));
        config.insert("proxies".into(), Value::Object(proxies));
    }
    if let Some(mtu) = fixed.mtu {
        // The first is for the network `bridge`, which builds use as well, the second for those that
        // people make, such as Compose.
        config.insert("mtu".into(), json!(mtu));
        let options = json!({ "com.docker.network.driver.mtu": mtu.to_string() });
        config.insert("default-network-opts".into(), json!({ "bridge": options }));
    }
    if !fixed.address_pools.is_empty() {
        config.insert("default-address-pools".into(), json!(fixed.address_pools));
    }
    if !fixed.log_options.is_empty() {
        let options = config.entry("log-opts").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.extend(
                fixed
                    .log_options
                    .iter()
                    .map(|(name, value)| (name.clone(), json!(value))),
            );
        }
    }
    if !fixed.ulimits.is_empty() {
        let limits: Map<String, Value> = fixed
            .ulimits
            .iter()
            .map(|(name, Ulimit { soft, hard })| {
                let limit = json!({ "Name": name, "Soft": soft, "Hard": hard });
                (name.clone(), limit)
            })
            .collect();
        config.insert("default-ulimits".into(), Value::Object(limits));
    }
    Value::Object(config)
}

#[cfg(test)]
mod tests {
    use guest_protocol::{AddressPool, Fixed, Live, Proxy};

    use super::*;

    const GROUND: &str = include_str!("../../../recipe/files/etc/docker/daemon.json");

    fn ground() -> Value {
        serde_json::from_str(GROUND).unwrap()
    }

    #[test]
    fn what_was_taken_out_is_written_as_nothing() {
        let config = over(&ground(), &Site::default());
        assert_eq!(config["registry-mirrors"], json!([]));
        assert_eq!(config["insecure-registries"], json!([]));
        for (key, value) in ground().as_object().unwrap() {
            assert_eq!(&config[key], value, "{key} is the image's");
        }
        assert_eq!(
            config.as_object().unwrap().len(),
            ground().as_object().unwrap().len() + 2
        );
    }

    #[test]
    fn all_that_a_site_may_say() {
        let site = Site {
            fixed: Fixed {
                proxy: Some(Proxy {
                    http: Some("http://proxy.example:3128".into()),
                    https: None,
                    except: vec!["localhost".into(), ".example".into()],
                }),
                mtu: Some(1400),
                address_pools: vec![AddressPool {
                    base: "10.200.0.0/16".into(),
                    size: 24,
                }],
                log_options: [("max-size".to_owned(), "1m".to_owned())].into(),
                ulimits: [(
                    "nofile".to_owned(),
                    Ulimit {
                        soft: 1024,
                        hard: 4096,
                    },
                )]
                .into(),
            },
            live: Live {
                registry_mirrors: vec!["https://mirror.example".into()],
                insecure_registries: vec!["registry.lan:5000".into()],
                authorities: vec![],
            },
        };
        let config = over(&ground(), &site);
        let expected = json!({
            "registry-mirrors": ["https://mirror.example"],
            "insecure-registries": ["registry.lan:5000"],
            "proxies": { "http-proxy": "http://proxy.example:3128", "no-proxy": "localhost,.example" },
            "mtu": 1400,
            "default-network-opts": { "bridge": { "com.docker.network.driver.mtu": "1400" } },
            "default-address-pools": [{ "base": "10.200.0.0/16", "size": 24 }],
            "log-opts": { "max-size": "1m", "max-file": "2" },
            "default-ulimits": { "nofile": { "Name": "nofile", "Soft": 1024, "Hard": 4096 } },
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&config[key], value, "{key}");
        }
    }
}
