//! Integration tests, one module a subject.

mod layering;
mod media;
