//! NAT profiles. A profile is written as its layers from the peer outward, separated by `+`, and each
//! layer as a name and options separated by `:`:
//!
//! `port` · `port+sym` · `sym:ports=sequential` · `eim-adf:hairpin:timeout=30s`
//!
//! | name | mapping | filtering |
//! |---|---|---|
//! | `none` | | |
//! | `firewall` | | address-and-port-dependent |
//! | `fullcone` | endpoint-independent | endpoint-independent |
//! | `addr` | endpoint-independent | address-dependent |
//! | `port` | endpoint-independent | address-and-port-dependent |
//! | `sym`, `sym-sequential` | address-and-port-dependent | address-and-port-dependent |
//! | `udp-blocked` | blocks UDP | |
//! | `eim-eif` … `apdm-apdf` | by initials: `eim`, `adm`, `apdm` | `eif`, `adf`, `apdf` |

use std::{fmt, str::FromStr};

use super::{BINDING_TIMEOUT, Behaviour, Layer, Nat, Ports};
use crate::{text::edit_distance, units};

/// Names of individual layers, in the order in which they are listed. `fw` is short for `firewall`.
pub const NAMES: [&str; 8] =
    ["none", "firewall", "fullcone", "addr", "port", "sym", "sym-sequential", "udp-blocked"];

/// Rows and columns of the matrix: all profiles with distinct expectations, and one that blocks UDP.
pub const MATRIX: [&str; 9] =
    ["none", "firewall", "fullcone", "addr", "port", "sym", "port+port", "port+sym", "udp-blocked"];

/// Maximum number of layers: even three, a home router behind two carrier NATs, are rare.
const MAX_LAYERS: usize = 4;

/// The layers between a peer and the internet. Without layers, the peer has a public address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Profile {
    /// The layers, from the peer outward.
    pub layers: Vec<Layer>,
}

/// Text that is not a valid profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The name is unknown.
    #[error("unknown NAT profile `{name}`{}; supported: {known}, any mapping and filtering such as eim-apdf, and stacks such as port+sym",
        suggestion.as_ref().map(|s| format!(" (did you mean `{s}`?)")).unwrap_or_default(), known = NAMES.join(", "))]
    Unknown {
        /// The name as written.
        name: String,
        /// The nearest known name.
        suggestion: Option<String>,
    },
    /// The option is unknown or does not apply to this layer.
    #[error("NAT profile `{layer}`: `{option}` is not a valid option; expected {usage}")]
    Option {
        /// Name of the layer.
        layer: String,
        /// The option as written.
        option: String,
        /// The valid options.
        usage: &'static str,
    },
    /// The layers cannot be combined.
    #[error("impossible NAT profile `{profile}`: {why}")]
    Impossible {
        /// The profile as written.
        profile: String,
        /// Why it is not possible.
        why: &'static str,
    },
}

impl Profile {
    /// Whether UDP passes at all.
    #[must_use]
    pub fn passes_udp(&self) -> bool {
        !self.layers.contains(&Layer::UdpBlocked)
    }

    /// Whether any layer translates.
    #[must_use]
    pub fn translates(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, Layer::Nat(_)))
    }

    /// The combined mapping of all layers; `None` if none translates.
    #[must_use]
    pub fn mapping(&self) -> Option<Behaviour> {
        let mappings = self.layers.iter().filter_map(|layer| match layer {
            Layer::Nat(nat) => Some(nat.mapping),
            _ => None,
        });
        mappings.max()
    }

    /// The combined filtering of all layers; `None` if none filters.
    #[must_use]
    pub fn filtering(&self) -> Option<Behaviour> {
        let filterings = self.layers.iter().filter_map(|layer| match layer {
            Layer::Nat(nat) => Some(nat.filtering),
            Layer::Firewall { filtering, .. } => Some(*filtering),
            Layer::UdpBlocked => None,
        });
        filterings.max()
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let impossible = |why| Err(ProfileError::Impossible { profile: text.into(), why });
        let words: Vec<&str> = text.split('+').map(str::trim).collect();
        if words.len() > 1 && words.contains(&"none") {
            return impossible("`none` is not allowed in a stack; omit it");
        }
        if words.len() > MAX_LAYERS {
            return impossible("more than 4 layers");
        }
        if words == ["none"] {
            return Ok(Self::default());
        }
        let layers = words.iter().map(|word| layer(word)).collect::<Result<Vec<_>, _>>()?;
        let blocked = layers.iter().filter(|layer| **layer == Layer::UdpBlocked).count();
        if blocked > 0 && layers.len() > 1 {
            return impossible(
                "`udp-blocked` makes other layers irrelevant; use `udp-blocked` alone",
            );
        }
        Ok(Self { layers })
    }
}

fn layer(word: &str) -> Result<Layer, ProfileError> {
    let mut parts = word.split(':');
    let name = parts.next().unwrap_or_default();
    let mut layer = named(name).ok_or_else(|| ProfileError::Unknown {
        name: name.to_owned(),
        suggestion: nearest(name),
    })?;
    for option in parts {
        set(&mut layer, option).map_err(|usage| ProfileError::Option {
            layer: name.to_owned(),
            option: option.to_owned(),
            usage,
        })?;
    }
    Ok(layer)
}

fn named(name: &str) -> Option<Layer> {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let nat = |mapping, filtering| Nat::new(mapping, filtering);
    let nat = match name {
        "firewall" | "fw" => {
            return Some(Layer::Firewall {
                filtering: AddressAndPortDependent,
                timeout: BINDING_TIMEOUT,
            });
        }
        "udp-blocked" => return Some(Layer::UdpBlocked),
        "fullcone" => nat(EndpointIndependent, EndpointIndependent),
        "addr" => nat(EndpointIndependent, AddressDependent),
        "port" => nat(EndpointIndependent, AddressAndPortDependent),
        "sym" => nat(AddressAndPortDependent, AddressAndPortDependent),
        "sym-sequential" => Nat {
            ports: Ports::Sequential,
            ..nat(AddressAndPortDependent, AddressAndPortDependent)
        },
        _ => {
            let (mapping, filtering) = name.split_once('-')?;
            let by_initials = |initials: Option<&str>| {
                Behaviour::ALL.into_iter().find(|b| Some(b.initials()) == initials)
            };
            nat(by_initials(mapping.strip_suffix('m'))?, by_initials(filtering.strip_suffix('f'))?)
        }
    };
    Some(Layer::Nat(nat))
}

const NAT_OPTIONS: &str =
    "hairpin, no-hairpin, ports=preserving|random|sequential or timeout=TIME (such as timeout=30s)";

fn set(layer: &mut Layer, option: &str) -> Result<(), &'static str> {
    let (key, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
    let timeout_of = |value: &str| units::duration(value).ok().filter(|time| !time.is_zero());
    match layer {
        Layer::Nat(nat) => match (key, value) {
            ("hairpin", None) => nat.hairpinning = true,
            ("no-hairpin", None) => nat.hairpinning = false,
            ("ports", Some("preserving")) => nat.ports = Ports::Preserving,
            ("ports", Some("random")) => nat.ports = Ports::Random,
            ("ports", Some("sequential")) => nat.ports = Ports::Sequential,
            ("timeout", Some(value)) => nat.timeout = timeout_of(value).ok_or(NAT_OPTIONS)?,
            _ => return Err(NAT_OPTIONS),
        },
        Layer::Firewall { timeout, .. } => match (key, value) {
            ("timeout", Some(value)) => *timeout = timeout_of(value).ok_or("timeout=TIME")?,
            _ => return Err("timeout=TIME (such as timeout=30s)"),
        },
        Layer::UdpBlocked => return Err("no options"),
    }
    Ok(())
}

/// The known name with the smallest edit distance, if it is small enough.
fn nearest(name: &str) -> Option<String> {
    let pairs = Behaviour::ALL.into_iter().flat_map(|m| {
        Behaviour::ALL.into_iter().map(move |f| format!("{}m-{}f", m.initials(), f.initials()))
    });
    let words = [
        ("symmetric", "sym"),
        ("restricted", "addr"),
        ("port-restricted", "port"),
        ("full-cone", "fullcone"),
        ("blocked", "udp-blocked"),
        ("cgnat", "port+port"),
        ("open", "none"),
        ("public", "none"),
    ];
    let words = words.map(|(word, known)| (word.to_owned(), known.to_owned()));
    let known = NAMES.iter().map(|name| (*name).to_owned()).chain(pairs);
    let all = known.map(|name| (name.clone(), name)).chain(words);
    let name = name.to_lowercase();
    let (distance, word, meant) =
        all.map(|(word, meant)| (edit_distance(&name, &word), word, meant)).min()?;
    (distance <= 2 && distance * 2 < word.len()).then_some(meant)
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.layers.is_empty() {
            return f.write_str("none");
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            write!(f, "{layer}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = match self {
            Self::UdpBlocked => return f.write_str("udp-blocked"),
            Self::Firewall { timeout, .. } => {
                f.write_str("firewall")?;
                return write_timeout(f, *timeout);
            }
            Self::Nat(nat) => nat,
        };
        let plain = |layer: Layer| match layer {
            Layer::Nat(nat) => (nat.mapping, nat.filtering, nat.ports),
            _ => unreachable!("only names of NATs are passed"),
        };
        let known = ["fullcone", "addr", "port", "sym", "sym-sequential"];
        let named = known.iter().find(|name| {
            named(name).map(plain) == Some((base.mapping, base.filtering, base.ports))
        });
        if let Some(name) = named {
            f.write_str(name)?;
        } else {
            write!(f, "{}m-{}f", base.mapping.initials(), base.filtering.initials())?;
            if base.ports != Nat::new(base.mapping, base.filtering).ports {
                write!(f, ":ports={}", base.ports.as_str())?;
            }
        }
        if base.hairpinning {
            f.write_str(":hairpin")?;
        }
        write_timeout(f, base.timeout)
    }
}

fn write_timeout(f: &mut fmt::Formatter<'_>, timeout: std::time::Duration) -> fmt::Result {
    if timeout == BINDING_TIMEOUT {
        return Ok(());
    }
    write!(f, ":timeout={}s", timeout.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Profile {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_have_their_behaviors() {
        use Behaviour::{
            AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei,
        };
        for (name, mapping, filtering) in [
            ("none", None, None),
            ("firewall", None, Some(Apd)),
            ("fullcone", Some(Ei), Some(Ei)),
            ("addr", Some(Ei), Some(Ad)),
            ("port", Some(Ei), Some(Apd)),
            ("sym", Some(Apd), Some(Apd)),
            ("sym-sequential", Some(Apd), Some(Apd)),
            ("adm-eif", Some(Ad), Some(Ei)),
            ("port+sym", Some(Apd), Some(Apd)),
            ("fullcone+port", Some(Ei), Some(Apd)),
        ] {
            let profile = parse(name);
            assert_eq!((profile.mapping(), profile.filtering()), (mapping, filtering), "{name}");
            assert!(profile.passes_udp());
        }
        assert!(!parse("udp-blocked").passes_udp());
    }

    #[test]
    fn profiles_round_trip() {
        for text in NAMES.into_iter().chain(MATRIX).chain([
            "apdm-eif",
            "adm-adf:ports=sequential",
            "port:hairpin",
            "sym-sequential:hairpin:timeout=30s",
            "port+port+sym",
            "firewall:timeout=1.5s",
        ]) {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("fw").to_string(), "firewall");
        assert_eq!(parse("eim-apdf:no-hairpin").to_string(), "port");
        assert_eq!(parse("sym:ports=sequential"), parse("sym-sequential"));
        let Layer::Nat(nat) = parse("port:timeout=2m").layers[0] else { panic!() };
        assert_eq!(nat.timeout, Duration::from_mins(2));
    }

    #[test]
    fn errors_show_the_valid_forms() {
        for (text, words) in [
            ("", "supported: none, firewall"),
            ("symetric", "did you mean `sym`"),
            ("fullcon", "did you mean `fullcone`"),
            ("symmetric", "did you mean `sym`"),
            ("eim-apd", "did you mean `eim-apdf`"),
            ("cgnat", "did you mean `port+port`"),
            ("wormhole-drive", "supported:"),
            ("none+port", "omit it"),
            ("port+udp-blocked", "alone"),
            ("port+port+port+port+port", "more than 4"),
            ("port:nope", "hairpin, no-hairpin"),
            ("port:timeout=0", "timeout=TIME"),
            ("port:hairpin=1", "hairpin, no-hairpin"),
            ("firewall:hairpin", "timeout=TIME"),
            ("udp-blocked:hairpin", "no options"),
        ] {
            let error = text.parse::<Profile>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let far = "wormhole-drive".parse::<Profile>().unwrap_err().to_string();
        assert!(!far.contains("did you mean"), "{far}");
    }
}
