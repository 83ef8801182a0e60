//! Toolkit for self-contained HTML pages: no scripts, no network, light and dark scheme.
//!
//! - [`document()`]: the page frame with style sheet and content security policy
//! - [`markup`]: escaped text, tables, figures
//! - [`svg`] and [`scale`]: plots as inline SVG, and their axes

mod document;
pub(crate) mod markup;
pub(crate) mod scale;
pub(crate) mod svg;

pub(crate) use document::document;
