//! What a run shows: live line, summary, statistics.
