//! A shared secret: compared in constant time and never printed.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;

/// A shared secret. `Debug` shows only its length.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// A new secret of 32 random bytes.
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::from(rand::random::<[u8; 32]>().as_slice()))
    }

    /// The bytes, for use in a computation.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with `other` in time that depends only on the lengths.
    #[must_use]
    pub fn is(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Arc::from(text.as_bytes()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_reveal_the_secret() {
        assert_eq!(format!("{:?}", Secret::from("hush")), "Secret(4 bytes)");
    }

    #[test]
    fn comparison_is_bytewise() {
        let secret = Secret::from("hush");
        assert!(secret.is(b"hush"));
        assert!(!secret.is(b"husH"));
        assert!(!secret.is(b"hush!"));
    }
}
