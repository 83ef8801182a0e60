//! Everything `orion-peer serve` runs, put together.
