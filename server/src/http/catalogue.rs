//! What can be asked for: engines and sizes.

use std::collections::BTreeMap;

use crate::config::SizeConfig;
use crate::lease::PoolKey;

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
            sizes,
            default_size: default_size.to_owned(),
        })
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
            Some(asked) => find(&self.engines, asked)
                .map(|engine| engine.name.clone())
                .ok_or_else(|| UnknownOffer::Engine {
                    asked: cut(asked),
                    offered: names(&self.engines),
                })?,
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
