//! Transcripts: lookup, reading, and evaluation of Claude Code's session transcripts.

pub(crate) mod damaged_line;
pub mod index;
pub mod locate;
pub mod reader;
pub mod record;
pub(crate) mod record_json;
pub mod render;
pub mod summary;
pub mod tail;
pub(crate) mod tail_state;
pub mod tokens;
