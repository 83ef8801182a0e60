//! The `device_pairs` store.
