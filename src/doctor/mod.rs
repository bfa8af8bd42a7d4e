//! The doctor: read-only, one finding a check, each with its fix.
