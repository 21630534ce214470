//! What can be asked for: engines and sizes.

use std::collections::BTreeMap;

use remote_docker_api::{Engine, EngineList};

use crate::config::SizeConfig;
use crate::lease::PoolKey;

/// What the default engine can be called as well.
const DEFAULT: &str = "default";

/// An engine on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOffer {
    /// What requests call it, such as `26`.
    pub name: String,
    /// Its full version, such as `26.1.5+dfsg1`; requests may also name it by this.
    pub version: String,
}

/// The engines and sizes on offer. Never empty, and the defaults are among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    engines: Vec<EngineOffer>,
    default_engine: String,
    /// Other names of engines, beside [`DEFAULT`].
    aliases: BTreeMap<String, String>,
    sizes: BTreeMap<String, SizeConfig>,
    default_size: String,
}

/// The configuration and the images do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// No image, so no engine.
    #[error("there is no engine to offer: no image was found")]
    NoEngine,
    /// The default engine is none of the images'.
    #[error("`default_engine` is `{name}`, but the images offer: {offered}")]
    DefaultEngine {
        /// The default.
        name: String,
        /// What there is.
        offered: String,
    },
    /// An alias names no engine.
    #[error("`engine_aliases.{alias}` is `{name}`, but the images offer: {offered}")]
    Alias {
        /// The alias.
        alias: String,
        /// What it names.
        name: String,
        /// What there is.
        offered: String,
    },
    /// An alias is what an engine is called.
    #[error("`engine_aliases.{0}` is the name of an engine already; choose another")]
    AliasIsEngine(String),
    /// The default size is none of the sizes.
    #[error("`default_size` is `{0}`, which `sizes` does not have")]
    DefaultSize(String),
}

/// A request asks for something that is not on offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOffer {
    /// The engine.
    #[error("there is no engine `{asked}`; on offer: {offered}")]
    Engine {
        /// What was asked for.
        asked: String,
        /// What there is.
        offered: String,
    },
    /// The size.
    #[error("there is no size `{asked}`; on offer: {offered}")]
    Size {
        /// What was asked for.
        asked: String,
        /// What there is.
        offered: String,
    },
}

impl Catalogue {
    /// Puts the offer together. Without a default engine, that with the highest version is it.
    ///
    /// # Errors
    /// When there is no engine, or a default is not among what there is.
    pub fn new(
        mut engines: Vec<EngineOffer>,
        default_engine: Option<&str>,
        sizes: BTreeMap<String, SizeConfig>,
        default_size: &str,
    ) -> Result<Self, CatalogueError> {
        engines.sort_by_key(|engine| numbers(&engine.version));
        let newest = engines.last().ok_or(CatalogueError::NoEngine)?;
        let default_engine = match default_engine {
            None => newest.name.clone(),
            Some(name) => find(&engines, name)
                .map(|engine| engine.name.clone())
                .ok_or(CatalogueError::DefaultEngine {
                    name: name.to_owned(),
                    offered: names(&engines),
                })?,
        };
        if !sizes.contains_key(default_size) {
            return Err(CatalogueError::DefaultSize(default_size.to_owned()));
        }
        Ok(Self {
            engines,
            default_engine,
            aliases: BTreeMap::new(),
            sizes,
            default_size: default_size.to_owned(),
        })
    }

    /// The same, with further names for engines.
    ///
    /// # Errors
    /// When one names no engine on offer, or is the name of one.
    pub fn with_aliases(
        mut self,
        aliases: &BTreeMap<String, String>,
    ) -> Result<Self, CatalogueError> {
        for (alias, name) in aliases {
            if find(&self.engines, alias).is_some() {
                return Err(CatalogueError::AliasIsEngine(alias.clone()));
            }
            let engine = find(&self.engines, name).ok_or_else(|| CatalogueError::Alias {
                alias: alias.clone(),
                name: name.clone(),
                offered: names(&self.engines),
            })?;
            self.aliases.insert(alias.clone(), engine.name.clone());
        }
        Ok(self)
    }

    /// The engines on offer, the oldest first, for who has to choose.
    #[must_use]
    pub fn engines(&self) -> EngineList {
        let describe = |engine: &EngineOffer| {
            let is_default = engine.name == self.default_engine;
            let named = self
                .aliases
                .iter()
                .filter(|(_, name)| **name == engine.name);
            let named = named.map(|(alias, _)| alias.clone());
            Engine {
                name: engine.name.clone(),
                version: engine.version.clone(),
                aliases: is_default
                    .then(|| DEFAULT.to_owned())
                    .into_iter()
                    .chain(named)
                    .collect(),
                is_default,
            }
        };
        EngineList {
            engines: self.engines.iter().map(describe).collect(),
        }
    }

    fn engine(&self, asked: &str) -> Option<&str> {
        if let Some(engine) = find(&self.engines, asked) {
            return Some(&engine.name);
        }
        match self.aliases.get(asked) {
            Some(name) => Some(name),
            None => (asked == DEFAULT).then_some(&*self.default_engine),
        }
    }

    fn offered(&self) -> String {
        let mut offered = names(&self.engines);
        for (alias, name) in &self.aliases {
            offered.push_str(&format!(", {alias} ({name})"));
        }
        offered
    }

    /// Every combination of an engine and a size.
    pub fn keys(&self) -> impl Iterator<Item = PoolKey> {
        self.engines.iter().flat_map(|engine| {
            self.sizes.keys().map(|size| PoolKey {
                engine: engine.name.clone(),
                size: size.clone(),
            })
        })
    }

    /// Memory of a machine of this size, in MiB; `None` when it is not on offer.
    #[must_use]
    pub fn memory_mib(&self, size: &str) -> Option<u32> {
        self.sizes.get(size).map(|size| size.memory_mib)
    }

    /// What a request gets that names nothing.
    #[must_use]
    pub fn default_key(&self) -> PoolKey {
        PoolKey {
            engine: self.default_engine.clone(),
            size: self.default_size.clone(),
        }
    }

    /// What a request gets that names these.
    ///
    /// # Errors
    /// When there is no such engine or size.
    pub fn resolve(
        &self,
        engine: Option<&str>,
        size: Option<&str>,
    ) -> Result<PoolKey, UnknownOffer> {
        let engine = match engine {
            None => self.default_engine.clone(),
            Some(asked) => self
                .engine(asked)
                .ok_or_else(|| UnknownOffer::Engine {
                    asked: cut(asked),
                    offered: self.offered(),
                })?
                .to_owned(),
        };
        let size = size.unwrap_or(&self.default_size);
        if !self.sizes.contains_key(size) {
            let names: Vec<&str> = self.sizes.keys().map(String::as_str).collect();
            return Err(UnknownOffer::Size {
                asked: cut(size),
                offered: names.join(", "),
            });
        }
        Ok(PoolKey {
            engine,
            size: size.to_owned(),
        })
    }
}

fn find<'a>(engines: &'a [EngineOffer], asked: &str) -> Option<&'a EngineOffer> {
    engines
        .iter()
        .find(|engine| engine.name == asked || engine.version == asked)
}

fn names(engines: &[EngineOffer]) -> String {
    let names: Vec<&str> = engines.iter().map(|engine| engine.name.as_str()).collect();
    names.join(", ")
}

/// The numbers in a version, so that 9 sorts before 26.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The beginning of what a client asked for, without anything a terminal would act on.
fn cut(asked: &str) -> String {
    asked.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str, version: &str) -> EngineOffer {
        EngineOffer {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    fn sizes() -> BTreeMap<String, SizeConfig> {
        crate::config::Config::default().sizes
    }

    #[test]
    fn the_newest_engine_is_the_default_unless_another_is_named() {
        let engines = || {
            vec![
                offer("26", "26.1.5+dfsg1"),
                offer("9", "9.9.9"),
                offer("28", "28.5"),
            ]
        };
        let engine = |default| {
            let catalogue = Catalogue::new(engines(), default, sizes(), "small").unwrap();
            catalogue.resolve(None, None).unwrap().engine
        };
        assert_eq!(engine(None), "28");
        assert_eq!(engine(Some("9")), "9");
        assert_eq!(engine(Some("26.1.5+dfsg1")), "26");
        assert_eq!(
            Catalogue::new(engines(), Some("27"), sizes(), "small"),
            Err(CatalogueError::DefaultEngine {
                name: "27".into(),
                offered: "9, 26, 28".into()
            })
        );
        assert_eq!(
            Catalogue::new(vec![], None, sizes(), "small"),
            Err(CatalogueError::NoEngine)
        );
    }

    #[test]
    fn an_engine_has_the_names_that_the_configuration_gives_it() {
        let catalogue = || {
            let engines = vec![offer("26", "26.1.5"), offer("28", "28.5.2")];
            Catalogue::new(engines, Some("26"), sizes(), "small").unwrap()
        };
        let aliases = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(alias, name)| ((*alias).into(), (*name).into()));
            catalogue().with_aliases(&owned.collect())
        };
        let named = aliases(&[("edge", "28.5.2"), ("previous", "26")]).unwrap();
        let engine = |asked| named.resolve(Some(asked), None).map(|key| key.engine);
        for (asked, engine_name) in [
            ("edge", "28"),
            ("previous", "26"),
            ("default", "26"),
            ("28", "28"),
        ] {
            assert_eq!(engine(asked).as_deref(), Ok(engine_name), "{asked}");
        }
        let refused = engine("next").unwrap_err().to_string();
        assert!(
            refused.ends_with("on offer: 26, 28, edge (28), previous (26)"),
            "{refused}"
        );
        let told: Vec<_> = named.engines().engines;
        assert_eq!(told[0].aliases, ["default", "previous"]);
        assert!(told[0].is_default && !told[1].is_default);
        assert_eq!((&*told[1].name, &*told[1].version), ("28", "28.5.2"));
        assert_eq!(told[1].aliases, ["edge"]);
        assert!(matches!(
            aliases(&[("edge", "29")]),
            Err(CatalogueError::Alias { .. })
        ));
        assert_eq!(
            aliases(&[("28", "26")]),
            Err(CatalogueError::AliasIsEngine("28".into()))
        );
    }

    #[test]
    fn what_is_not_on_offer_is_named_beside_what_is() {
        let catalogue = Catalogue::new(vec![offer("26", "26.1")], None, sizes(), "small").unwrap();
        let refused = |engine, size| catalogue.resolve(engine, size).unwrap_err().to_string();
        assert_eq!(
            refused(Some("27"), None),
            "there is no engine `27`; on offer: 26"
        );
        assert_eq!(
            refused(None, Some("\u{1b}[31mhuge")),
            "there is no size `[31mhuge`; on offer: large, small"
        );
        assert!(refused(Some(&"x".repeat(10_000)), None).len() < 200);
        assert_eq!(catalogue.keys().count(), 2);
    }
}
