//! The merged layers: one text per property name, with its origin.
//!
//! figment merges, and remembers each value's provider. Names stay flat: if they were nested at their dots, as
//! figment's own providers do, `broker.id` and `broker.id.generation.enable` would destroy each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use crate::environment::ReadEnvironment;
use crate::error::ConfigError;
use crate::file;

/// Where a configuration is read from. Empty is a process that is told nothing.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// A properties file; one that is named must be there.
    pub file: Option<PathBuf>,
    /// All environment variables; those that are not settings are ignored.
    pub environment: Vec<(String, String)>,
    /// `key=value` from the command line.
    pub flags: Vec<(String, String)>,
    /// What follows from other settings where nobody said it: below the file, above the defaults.
    pub derived: Vec<Derived>,
}

/// A property that follows from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Derived {
    pub name: String,
    pub value: String,
    /// For people: what it follows from.
    pub from: String,
}

impl Derived {
    pub fn new(name: &str, value: impl Into<String>, from: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.into(), from: from.into() }
    }
}

impl Sources {
    /// The environment of this process, a file, and `key=value` flags as they stand on the command line.
    pub fn of_process(file: Option<PathBuf>, flags: &[String]) -> Result<Self, ConfigError> {
        let flags = flags
            .iter()
            .map(|flag| match flag.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
                _ => Err(ConfigError::Flag { flag: flag.clone() }),
            })
            .collect::<Result<_, _>>()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self { file, environment, flags, derived: Vec::new() })
    }

    /// Variables only: what a container is given.
    pub fn of_environment<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let environment = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { environment, ..Self::default() }
    }
}

/// Where a property's value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    /// Derived from this setting.
    Derived(String),
    File(PathBuf),
    /// The variable's name.
    Environment(String),
    Flag,
    /// Set while the brokers run, for all of them.
    Cluster,
    /// Set while the broker runs, for it alone.
    Broker,
}

impl Origin {
    /// Whether somebody set it, as DescribeConfigs' `STATIC_BROKER_CONFIG` means it.
    pub fn is_static(&self) -> bool {
        matches!(self, Self::File(_) | Self::Environment(_) | Self::Flag)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(from) => f.write_str(from),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str("command line"),
            Self::Cluster => f.write_str("set at run time for all brokers"),
            Self::Broker => f.write_str("set at run time"),
        }
    }
}

/// One property's text and origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    pub value: String,
    pub origin: Origin,
}

/// Every property that has a value, by name.
#[derive(Clone, Default, Debug)]
pub struct Properties {
    entries: BTreeMap<String, Property>,
}

impl Properties {
    pub fn get(&self, name: &str) -> Option<&Property> {
        self.entries.get(name)
    }

    /// The text of a property, default or set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|property| property.value.as_str())
    }

    /// A property that somebody set; none for a default.
    pub fn explicit(&self, name: &str) -> Option<&Property> {
        self.get(name).filter(|property| property.origin.is_static())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Property)> {
        self.entries.iter().map(|(name, property)| (name.as_str(), property))
    }

    pub(crate) fn insert(&mut self, name: &str, property: Property) {
        self.entries.insert(name.to_owned(), property);
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Property> {
        self.entries.remove(name)
    }
}

/// Merges the layers: `defaults` are (name, value). What is to be said of the environment is added to `warnings`.
pub(crate) fn merge<'a>(
    defaults: impl IntoIterator<Item = (&'a str, &'a str)>,
    sources: &Sources,
    read_environment: ReadEnvironment,
    warnings: &mut Vec<String>,
) -> Result<Properties, ConfigError> {
    let mut figment = Figment::new().merge(Layer::new(
        "default",
        None,
        defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())),
    ));
    let derived = sources.derived.iter().map(|derived| (derived.name.clone(), derived.value.clone()));
    figment = figment.merge(Layer::new("derived", None, derived));
    if let Some(path) = &sources.file {
        figment = figment.merge(Layer::new("file", Some(path), read_file(path)?));
    }
    let environment = read_environment(&sources.environment)?;
    warnings.extend(environment.warnings);
    // The variable that each property came from: figment knows the layer, the message should name the variable.
    let mut named = BTreeMap::new();
    for entry in &environment.entries {
        named.insert(entry.property.clone(), entry.variable.clone());
    }
    let entries = environment.entries.into_iter().map(|entry| (entry.property, entry.value));
    figment = figment.merge(Layer::new("environment", None, entries)).merge(Layer::new(
        "flag",
        None,
        sources.flags.iter().cloned(),
    ));
    let mut properties = Properties::default();
    let data = figment.data().unwrap_or_default();
    for (name, value) in data.into_values().flatten() {
        let layer = figment.get_metadata(value.tag()).map_or("default", |metadata| metadata.name.as_ref());
        let origin = match layer {
            "derived" => Origin::Derived(
                sources
                    .derived
                    .iter()
                    .rev()
                    .find(|derived| derived.name == name)
                    .map_or_else(String::new, |d| d.from.clone()),
            ),
            "file" => Origin::File(sources.file.clone().unwrap_or_default()),
            "environment" => Origin::Environment(named.remove(&name).unwrap_or_default()),
            "flag" => Origin::Flag,
            _ => Origin::Default,
        };
        let value = value.into_string().unwrap_or_default();
        properties.insert(&name, Property { value: value.trim().to_owned(), origin });
    }
    Ok(properties)
}

fn read_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let failed = |problem: String| ConfigError::File { path: path.display().to_string(), problem };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("is not UTF-8".to_owned()))?;
    Ok(file::parse(&text))
}

/// One layer of flat, textual values.
struct Layer {
    name: &'static str,
    file: Option<PathBuf>,
    values: Dict,
}

impl Layer {
    fn new(name: &'static str, file: Option<&PathBuf>, values: impl IntoIterator<Item = (String, String)>) -> Self {
        let values = values.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        Self { name, file: file.cloned(), values }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        match &self.file {
            Some(path) => Metadata::from(self.name, path.as_path()),
            None => Metadata::named(self.name),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment;

    #[test]
    fn later_layers_win_and_names_stay_flat() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("server.properties");
        std::fs::write(&path, "a=file\nb=file\nc=file\nbroker.id=1\nbroker.id.generation.enable=true\n")
            .expect("written");
        let sources = Sources {
            file: Some(path.clone()),
            environment: vec![("KAFKA_B".into(), "env".into()), ("KAFKA_C".into(), "env".into())],
            flags: vec![("c".into(), "flag".into())],
            derived: vec![Derived::new("e", "derived", "because"), Derived::new("a", "derived", "because")],
        };
        let merged = merge([("a", "default"), ("d", "default")], &sources, environment::of_broker, &mut Vec::new())
            .expect("mergeable");
        let flat: Vec<_> = merged.iter().map(|(k, p)| format!("{k}={} {}", p.value, p.origin)).collect();
        let path = path.display();
        assert_eq!(
            flat,
            [
                format!("a=file {path}"),
                "b=env KAFKA_B".into(),
                format!("broker.id=1 {path}"),
                format!("broker.id.generation.enable=true {path}"),
                "c=flag command line".into(),
                "d=default default".into(),
                "e=derived because".into(),
            ]
        );
        assert!(merged.explicit("d").is_none() && merged.explicit("a").is_some());
    }

    #[test]
    fn a_missing_file_is_one_line() {
        let sources = Sources { file: Some("/no/such/file".into()), ..Sources::default() };
        let error = merge([], &sources, environment::of_broker, &mut Vec::new()).expect_err("no file").to_string();
        assert!(error.starts_with("/no/such/file: ") && !error.contains('\n'), "{error}");
    }
}
