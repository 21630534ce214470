//! What each project may ask for. How much it may hold at a time is `lease/quota.rs`.

use std::collections::BTreeMap;

use remote_docker_api::Egress;

use crate::config::{Config, EgressOffer, ProjectConfig};
use crate::lease::Quota;

/// The terms of all projects.
#[derive(Debug, Clone, Default)]
pub struct Projects(BTreeMap<String, Terms>);

/// What a project may ask for. The default is anything that is on offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long its leases last at most, in seconds.
    pub max_ttl_s: Option<u32>,
    /// What its leases that have a machine may be together.
    pub quota: Quota,
    /// The sizes it may have; `None` for all. The first is for requests that name none.
    pub sizes: Option<Vec<String>>,
    /// The most open network policy it may have; `None` for all.
    pub egress: Option<Egress>,
}

impl Projects {
    /// The terms that the configuration sets.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let terms = |(name, project): (&String, &ProjectConfig)| {
            let terms = Terms {
                max_ttl_s: project.max_ttl_s,
                quota: Quota {
                    max_leases: project.max_leases,
                    max_memory_mib: project.max_memory_mib,
                },
                sizes: sizes(config, project),
                egress: project.egress,
            };
            (name.clone(), terms)
        };
        Self(config.projects.iter().map(terms).collect())
    }

    /// What projects may hold at a time, where that is limited.
    #[must_use]
    pub fn quotas(&self) -> BTreeMap<String, Quota> {
        let limited = self
            .0
            .iter()
            .filter(|(_, terms)| terms.quota != Quota::default());
        limited
            .map(|(name, terms)| (name.clone(), terms.quota))
            .collect()
    }

    /// Those of this project.
    #[must_use]
    pub fn terms(&self, project: &str) -> Terms {
        self.0.get(project).cloned().unwrap_or_default()
    }
}

impl Terms {
    /// How long a lease may last where others may last so long, in seconds.
    #[must_use]
    pub fn longest(&self, max_ttl_s: u32) -> u32 {
        self.max_ttl_s.map_or(max_ttl_s, |most| most.min(max_ttl_s))
    }

    /// What is left of the network policies that the server offers.
    #[must_use]
    pub fn egress(&self, offer: &EgressOffer) -> EgressOffer {
        self.egress
            .map_or_else(|| offer.clone(), |most| offer.up_to(most))
    }

    /// The size of a request that names none; `None` for the server's own default.
    #[must_use]
    pub fn default_size(&self) -> Option<&str> {
        self.sizes.as_ref()?.first().map(String::as_str)
    }

    /// Whether a machine of this size may be asked for.
    #[must_use]
    pub fn allow_size(&self, name: &str) -> bool {
        let sizes = self.sizes.as_ref();
        sizes.is_none_or(|sizes| sizes.iter().any(|size| size == name))
    }
}

/// What is left of the sizes on offer, the default first.
fn sizes(config: &Config, project: &ProjectConfig) -> Option<Vec<String>> {
    if project.sizes.is_none() && project.max_memory_mib.is_none() {
        return None;
    }
    let allowed = |name: &String| {
        let size = config.sizes.get(name);
        size.is_some_and(|size| project.allows_size(name, size.memory_mib))
    };
    let named = project.sizes.clone();
    let named = named.unwrap_or_else(|| {
        // The smaller ones first: who names none should get one that leaves room for another.
        let mut all: Vec<_> = config.sizes.iter().collect();
        all.sort_by_key(|(_, size)| size.memory_mib);
        all.into_iter().map(|(name, _)| name.clone()).collect()
    });
    let mut sizes: Vec<String> = named.into_iter().filter(allowed).collect();
    if let Some(place) = sizes.iter().position(|size| *size == config.default_size) {
        let default = sizes.remove(place);
        sizes.insert(0, default);
    }
    Some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SizeConfig;

    fn sizes_of(max_memory_mib: Option<u64>, named: Option<&[&str]>) -> Option<Vec<String>> {
        let size = |(name, memory_mib): (&str, u32)| {
            let size = SizeConfig {
                vcpus: 1,
                memory_mib,
            };
            (name.to_owned(), size)
        };
        let mut project = ProjectConfig::default();
        project.max_memory_mib = max_memory_mib;
        project.sizes = named.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let mut config = Config::default();
        config.sizes = [("a", 4096), ("b", 1024), ("c", 2048)].map(size).into();
        config.default_size = "c".to_owned();
        config.projects.insert("web".to_owned(), project);
        Projects::new(&config).terms("web").sizes
    }

    #[test]
    fn the_default_of_a_project_is_one_that_it_may_have() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(sizes_of(None, None), None);
        assert_eq!(sizes_of(None, Some(&["a", "b"])), names(&["a", "b"]));
        assert_eq!(sizes_of(None, Some(&["a", "c"])), names(&["c", "a"]));
        assert_eq!(sizes_of(Some(2048), None), names(&["c", "b"]));
        assert_eq!(sizes_of(Some(1024), None), names(&["b"]));
        assert_eq!(sizes_of(Some(9000), None), names(&["c", "b", "a"]));
    }

    #[test]
    fn a_project_without_terms_may_ask_for_anything() {
        let terms = Projects::default().terms("web");
        assert!(terms.allow_size("huge") && terms.default_size().is_none());
        assert_eq!(terms.longest(7), 7);
        let short = Terms {
            max_ttl_s: Some(5),
            ..Terms::default()
        };
        assert_eq!((short.longest(7), short.longest(3)), (5, 3));
    }
}
